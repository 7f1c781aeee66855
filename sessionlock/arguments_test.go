package sessionlock_test

import (
	"context"
	"database/sql"
	"strings"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// forms are all the ways to ask for a lock. The callback must not run.
func forms(t *testing.T) map[string]func(l *sessionlock.Locker) error {
	ctx, key := t.Context(), hashkey.Name("k")
	fn := func(context.Context, *sql.Conn) error { t.Error("fn ran"); return nil }
	lead := func(context.Context) error { t.Error("fn ran"); return nil }
	return map[string]func(l *sessionlock.Locker) error{
		"Lock":        func(l *sessionlock.Locker) error { _, err := l.Lock(ctx, key); return err },
		"TryLock":     func(l *sessionlock.Locker) error { _, err := l.TryLock(ctx, key); return err },
		"LockConn":    func(l *sessionlock.Locker) error { _, err := l.LockConn(ctx, new(sql.Conn), key); return err },
		"TryLockConn": func(l *sessionlock.Locker) error { _, err := l.TryLockConn(ctx, new(sql.Conn), key); return err },
		"WithLock":    func(l *sessionlock.Locker) error { return l.WithLock(ctx, key, fn) },
		"TryWithLock": func(l *sessionlock.Locker) error { return l.TryWithLock(ctx, key, fn) },
		"WithSlot":    func(l *sessionlock.Locker) error { return l.WithSlot(ctx, key, 2, fn) },
		"TryWithSlot": func(l *sessionlock.Locker) error { return l.TryWithSlot(ctx, key, 2, fn) },
		"Lead":        func(l *sessionlock.Locker) error { return l.Lead(ctx, key, lead) },
	}
}

// A Locker that New has not made, or has made of nothing, is an error that says
// so, and no panic.
func TestNoLocker(t *testing.T) {
	o := sessionlock.Options{Shareable: true, Wait: 1}
	for says, lockers := range map[string][]*sessionlock.Locker{
		"nil or zero": {nil, {}, (*sessionlock.Locker)(nil).With(o), new(sessionlock.Locker).With(o)},
		"nil *sql.DB": {sessionlock.New(nil), sessionlock.New(nil).With(o)},
	} {
		for i, l := range lockers {
			for name, call := range forms(t) {
				if err := call(l); err == nil || !strings.HasPrefix(err.Error(), "sessionlock: ") || !strings.Contains(err.Error(), says) {
					t.Errorf("%s, %s of Locker %d: %v", name, says, i, err)
				}
			}
			_ = l.Options()
		}
	}
}
