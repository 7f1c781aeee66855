package testneed_test

import (
	"cmp"
	"errors"
	"testing"

	"github.com/pgadvisory/pgadvisory/internal/testneed"
)

// fake is a test that notes how it ends.
type fake struct {
	testing.TB
	ended string
}

func (*fake) Helper()                 {}
func (f *fake) Skipf(string, ...any)  { f.ended = cmp.Or(f.ended, "skipped") }
func (f *fake) Fatalf(string, ...any) { f.ended = cmp.Or(f.ended, "failed") }

// A test that lacks something is skipped, but fails where nobody would miss it.
func TestMissing(t *testing.T) {
	for ci, want := range map[string]string{"": "skipped", "true": "failed"} {
		t.Setenv("CI", ci)
		f := new(fake)
		testneed.Missing(f, errors.New("no such program"))
		if f.ended != want {
			t.Errorf("CI=%q: %s, want %s", ci, f.ended, want)
		}
	}
}
