package lockerr_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
)

// The sentinel of a SQLSTATE is the one that the manual's appendix says, of any
// other code there is none, and a code says one thing only.
func FuzzAcquireError(f *testing.F) {
	for _, code := range []string{"40P01", "53200", "55P03", "57014", "57P01", "08006", "25P03", "25P04", "40001", "53300", "", "4", "40P011", "\x00"} {
		f.Add(code, false)
		f.Add(code, true)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	f.Fuzz(func(t *testing.T, code string, wrapped bool) {
		var err error = stateError(code)
		if wrapped {
			err = errors.Join(errors.New("another"), fmt.Errorf("query: %w", err))
		}
		keys := []hashkey.Key{hashkey.Name(code)}
		want := map[string]error{
			"40P01": lockerr.ErrDeadlock,
			"53200": lockerr.ErrLockTableFull,
			"55P03": lockerr.ErrNotAcquired,
		}[code]
		checkSentinel(t, code, want, lockerr.AcquireError(t.Context(), "test", keys, err))
		checkSentinel(t, code, lockerr.ErrNotAcquired, lockerr.AcquireError(ended, "test", keys, err))

		endsSession := strings.HasPrefix(code, "57P") || strings.HasPrefix(code, "08") || code == "25P03" || code == "25P04"
		if got := lockerr.IsAnswer(err); got != (code != "" && !endsSession) {
			t.Errorf("%q: IsAnswer %t", code, got)
		}
		if got := lockerr.WaitEnded(err); got != (code == "55P03" || code == "57014") || got && !lockerr.IsAnswer(err) {
			t.Errorf("%q: WaitEnded %t", code, got)
		}
		if got := lockerr.EndedWhileIdle(err); got != (code == "25P03") {
			t.Errorf("%q: EndedWhileIdle %t", code, got)
		}
	})
}

// checkSentinel checks that err is want, if not nil, and no other sentinel, that
// the driver's error is within reach, and that the key is named.
func checkSentinel(t *testing.T, code string, want, err error) {
	t.Helper()
	for _, sentinel := range []error{lockerr.ErrNotAcquired, lockerr.ErrDeadlock, lockerr.ErrLockTableFull, lockerr.ErrLost, lockerr.ErrCommitUnknown, lockerr.ErrStandby} {
		if errors.Is(err, sentinel) != (sentinel == want) {
			t.Errorf("%q: %v, want %v", code, err, want)
		}
	}
	if lockerr.SQLState(err) != code || !strings.Contains(err.Error(), hashkey.Name(code).String()) {
		t.Errorf("%q: SQLSTATE %q in %v", code, lockerr.SQLState(err), err)
	}
}
