package verdict_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/verdict"
)

// answers answers each message with so many rows, or with an error.
func answers(all ...any) verdict.Exec {
	return func(context.Context, locksql.Message) (int64, error) {
		next := all[0]
		all = all[1:]
		if err, ok := next.(error); ok {
			return 0, err
		}
		return int64(next.(int)), nil
	}
}

func ownTx(exec verdict.Exec) *verdict.OwnTx {
	return &verdict.OwnTx{Package: "verdict_test", Exec: exec, Keys: []hashkey.Key{hashkey.Name("k")}}
}

// The number of rows says what became of the message.
func TestVerdicts(t *testing.T) {
	failed := &pgconn.PgError{Code: "40P01"}
	for name, test := range map[string]struct {
		answer  any
		granted bool
		want    error
	}{
		"refused":  {0, false, nil},
		"granted":  {1, true, nil},
		"stale":    {2, false, lockerr.ErrStaleSnapshot},
		"standby":  {3, false, lockerr.ErrStandby},
		"pretends": {4, false, lockerr.ErrUnsupportedServer},
		"deadlock": {failed, false, lockerr.ErrDeadlock},
	} {
		t.Run(name, func(t *testing.T) {
			granted, err := ownTx(answers(test.answer)).TryLock(t.Context())
			if granted != test.granted || !errors.Is(err, test.want) {
				t.Errorf("got %t, %v", granted, err)
			}
			if test.want != nil && !strings.Contains(err.Error(), `"k"`) {
				t.Errorf("%v does not name the key", err)
			}
		})
	}
	if granted, err := ownTx(answers(5)).TryLock(t.Context()); granted || err == nil || !strings.HasPrefix(err.Error(), "verdict_test: ") {
		t.Errorf("an unknown verdict: %t, %v", granted, err)
	}
}

// Lock polls, where it is to, until the lock is granted or its time is over.
func TestPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		o := ownTx(answers(0, 0, 1))
		o.Poll = time.Second
		if err := o.Lock(t.Context()); err != nil || time.Since(began) != 2*time.Second {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
		o.Exec, o.Wait = answers(0, 0), 1500*time.Millisecond
		if err := o.Lock(t.Context()); !errors.Is(err, lockerr.ErrNotAcquired) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want ErrNotAcquired", err)
		}
	})
}

// A cancelled ctx ends PastDeadline's at once, and a deadline some time later, for
// the server to answer first.
func TestPastDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := func(parent context.Context) time.Duration {
			began := time.Now()
			ctx, cancel := verdict.PastDeadline(parent)
			defer cancel()
			<-ctx.Done()
			return time.Since(began)
		}
		parent, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if d := ended(parent); d != 1500*time.Millisecond {
			t.Errorf("a deadline of 1s ends it after %v", d)
		}
		parent, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if d := ended(parent); d != time.Second {
			t.Errorf("a cancellation after 1s ends it after %v", d)
		}
		if d := ended(parent); d != 0 {
			t.Errorf("an ended ctx ends it after %v", d)
		}
	})
}
