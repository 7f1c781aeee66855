// Package testneed sees to what tests need of the machine.
package testneed

import (
	"os"
	"testing"
)

// Missing ends the test for want of what err names: it is skipped, or where CI is
// set it fails, because no one would miss a test that is skipped there.
func Missing(tb testing.TB, err error) {
	tb.Helper()
	if os.Getenv("CI") != "" {
		tb.Fatalf("%v", err)
	}
	tb.Skipf("%v", err)
}
