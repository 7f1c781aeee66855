package integration_test

import (
	"context"
	"database/sql"
	"strings"
	"sync"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

type pathKey struct{}

// pathTo returns what a pathTracer was told of on the way to ctx.
func pathTo(ctx context.Context) string {
	path, _ := ctx.Value(pathKey{}).(string)
	return path
}

// pathTracer is an Options.Trace that keeps the way of each lock in its context,
// and notes the ways that have come to an end.
type pathTracer struct {
	mu    sync.Mutex
	ended []string // guarded by mu
}

func (p *pathTracer) trace(ctx context.Context, e sessionlock.Event) context.Context {
	path := strings.TrimPrefix(pathTo(ctx)+" "+e.Kind.String(), " ")
	switch e.Kind {
	case sessionlock.Failed, sessionlock.Released, sessionlock.Lost:
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ended = append(p.ended, path)
	}
	return context.WithValue(ctx, pathKey{}, path)
}

// was checks which ways have come to an end, and forgets them.
func (p *pathTracer) was(t *testing.T, what string, want ...string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if strings.Join(p.ended, ", ") != strings.Join(want, ", ") {
		t.Errorf("%s: told %q, want %q", what, p.ended, want)
	}
	p.ended = nil
}

// The contexts of one lock's events come from each other, and the callback's from
// that of the grant.
func TestSessionTrace(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	key := hashkey.Name("k")
	for _, shareable := range []bool{false, true} {
		var p pathTracer
		l := sessionlock.New(db).With(sessionlock.Options{Trace: p.trace, Shareable: shareable})
		ctx := context.WithValue(t.Context(), pathKey{}, "caller")
		const granted, released = "caller waiting granted", "caller waiting granted released"
		inside := func(ctx context.Context) error {
			if path := pathTo(ctx); path != granted {
				t.Errorf("the callback's ctx comes from %q, want %q", path, granted)
			}
			return nil
		}
		onConn := func(ctx context.Context, _ *sql.Conn) error { return inside(ctx) }
		for what, call := range map[string]func() error{
			"WithLock":    func() error { return l.WithLock(ctx, key, onConn) },
			"TryWithLock": func() error { return l.TryWithLock(ctx, key, onConn) },
			"WithSlot":    func() error { return l.WithSlot(ctx, key, 2, onConn) },
			"Lead":        func() error { return l.Lead(ctx, key, inside) },
			"Lock": func() error {
				k, err := l.Lock(ctx, key)
				if err != nil {
					return err
				}
				return k.Unlock()
			},
		} {
			if err := call(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			p.was(t, what, released)
		}
		other := lock(t, sessionlock.New(db), key)
		_, err := l.TryLock(ctx, key)
		wantError(t, err, sessionlock.ErrNotAcquired)
		p.was(t, "a refused try", "caller waiting failed")
		unlock(t, other)
		wantError(t, l.WithLock(ctx, key, func(ctx context.Context, _ *sql.Conn) error {
			exec(t, db, `select pg_terminate_backend(pid) from pg_locks where`+inThisDatabase)
			<-ctx.Done()
			return inside(ctx)
		}), sessionlock.ErrLost)
		p.was(t, "a loss", "caller waiting granted lost")
		noTrace(t, db)
	}
}

// A Trace or an Observe that panics at the grant leaves no lock, and Trace is told of
// the release with the lock's own context.
func TestSessionTracePanics(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	atGrant := func(e sessionlock.Event) {
		if e.Kind == sessionlock.Granted {
			panic(errExpected)
		}
	}
	var p pathTracer
	for name, o := range map[string]sessionlock.Options{
		"Observe": {Observe: atGrant, Trace: p.trace},
		"Trace":   {Trace: func(ctx context.Context, e sessionlock.Event) context.Context { atGrant(e); return p.trace(ctx, e) }},
	} {
		func() {
			defer func() {
				if value := recover(); value != errExpected {
					t.Errorf("%s: recovered %v", name, value)
				}
			}()
			_, _ = sessionlock.New(db).With(o).Lock(t.Context(), hashkey.Name("k"))
		}()
		noTrace(t, db)
		p.was(t, name, "waiting released")
	}
}
