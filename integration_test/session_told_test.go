package integration_test

import (
	"context"
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
