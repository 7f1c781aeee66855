package integration_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pulse"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// A holder is told of its loss before the next one can have the lock, also where it
// is the library that ends the session, because the server's answers do not arrive.
func TestSessionToldBeforeTheNext(t *testing.T) {
	t.Parallel()
	const soon, late = 400 * time.Millisecond, time.Hour
	for name, test := range map[string]struct {
		home  string
		pulse time.Duration
		ask   func(ctx context.Context, l *sessionlock.Locker, beside *sessionlock.Lock)
	}{
		"own, the watch":       {"own", soon, nil},
		"shareable, the watch": {"shareable", soon, nil},
		"shareable, an unlock": {"shareable", late, func(_ context.Context, _ *sessionlock.Locker, beside *sessionlock.Lock) { _ = beside.Unlock() }},
		"shareable, a try": {"shareable", late, func(ctx context.Context, l *sessionlock.Locker, _ *sessionlock.Lock) {
			_, _ = l.TryLock(ctx, hashkey.Name("third"))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := newDatabase(t)
			p, through := newProxy(t, dsn)
			db, other := openDB(t, dsn, through), openDB(t, dsn)
			o := homes[test.home]
			o.Check = quick.Check
			l, ctx := sessionlock.New(db).With(o), pulse.With(t.Context(), test.pulse)
			k := lockUnder(ctx, t, l, hashkey.Name("k"))
			beside := lockUnder(ctx, t, l, hashkey.Name("beside"))
			atGrant := make(chan error, 1)
			go func() {
				next, err := sessionlock.New(other).Lock(bounded(t), hashkey.Name("k"))
				atGrant <- k.Err()
				if err == nil {
					err = next.Unlock()
				}
				wantNoError(t, err)
			}()
			until(t, "another session waits", func() bool { return waitingLocks(t, other) == 1 })
			p.swallow.Store(&swallow{text: "select", hang: true, reached: make(chan struct{})})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if test.ask != nil {
				go test.ask(ctx, l, beside)
			}
			wantError(t, <-atGrant, sessionlock.ErrLost)
			cancel()
			for _, k := range []*sessionlock.Lock{k, beside} {
				lostOrUnlocked(t, k)
				_ = k.Unlock()
			}
			noTrace(t, other, db)
		})
	}
}

func lostOrUnlocked(t *testing.T, k *sessionlock.Lock) {
	t.Helper()
	select {
	case <-k.Lost():
	case <-time.After(patience):
		t.Error("the lock beside counts as held")
	}
}

// A loss is told when it is noticed and not when the callback returns, once, and
// after the callback's ctx has ended. An Observe that is slow to return holds up
// neither another lock's loss nor the end of the session.
func TestSessionLossIsToldAtOnce(t *testing.T) {
	t.Parallel()
	for name, o := range homes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, other := two(t)
			told, goOn, inside := make(chan sessionlock.Event, 10), make(chan struct{}), make(chan context.Context, 1)
			key := hashkey.Name("k")
			o.Check = quick.Check
			o.Observe = func(e sessionlock.Event) {
				if e.Kind != sessionlock.Lost && e.Kind != sessionlock.Released {
					return
				}
				if e.Key == key && (<-inside).Err() == nil {
					t.Error("the loss is told while the callback's ctx goes on")
				}
				told <- e
				<-goOn
			}
			l := sessionlock.New(db).With(o)
			beside := lock(t, l, hashkey.Name("beside"))
			err := l.WithLock(t.Context(), key, func(ctx context.Context, _ *sql.Conn) error {
				defer close(goOn)
				inside <- ctx
				terminateHolders(t, other)
				keys := make(map[hashkey.Key]bool)
				for range 2 {
					select {
					case e := <-told:
						keys[e.Key] = true
						wantError(t, e.Err, sessionlock.ErrLost)
						if e.Kind != sessionlock.Lost || e.Held <= 0 {
							t.Errorf("told of %v, held %v", e.Kind, e.Held)
						}
					case <-time.After(patience):
						t.Fatal("the loss is not told while the callback goes on")
					}
				}
				if len(keys) != 2 {
					t.Errorf("told of the loss of %v", keys)
				}
				becomesFree(t, other, key)
				return nil
			})
			wantError(t, err, sessionlock.ErrLost)
			wantError(t, beside.Unlock(), sessionlock.ErrLost)
			if len(told) > 0 {
				t.Errorf("told again: %v", <-told)
			}
			noTrace(t, other, db)
		})
	}
}
