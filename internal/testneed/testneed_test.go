package testneed_test

import (
	"cmp"
	"errors"
	"testing"
	"testing/synctest"
	"time"

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

// A state that comes is waited for.
func TestReached(t *testing.T) {
	looks := 0
	if !testneed.Reached(func() bool { looks++; return looks == 5 }) || looks != 5 {
		t.Errorf("%d looks", looks)
	}
	testneed.Until(t, "it is so", func() bool { return true })
}

// One that does not come is given up, which ends the test that waits for it.
func TestNotReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if testneed.Reached(func() bool { return false }) {
			t.Error("reached")
		}
		if waited := time.Since(began); waited < testneed.Patience {
			t.Errorf("given up after %v", waited)
		}
	})
}
