package integration_test

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
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
			atGrant := errAtGrant(t, other, k)
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

// errAtGrant has another session wait for k's key, and returns what k.Err says when that
// is granted.
func errAtGrant(t *testing.T, other *sql.DB, k *sessionlock.Lock) <-chan error {
	t.Helper()
	atGrant := make(chan error, 1)
	go func() {
		next, err := sessionlock.New(other).Lock(bounded(t), k.Key())
		atGrant <- k.Err()
		if err == nil {
			err = next.Unlock()
		}
		wantNoError(t, err)
	}()
	until(t, "another session waits", func() bool { return waitingLocks(t, other) == 1 })
	return atGrant
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

// The locks on one connection of the caller's own are lost together, whichever of them
// it is for which the library ends the session.
func TestSessionBesideToldBeforeTheNext(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]func(ctx context.Context, beside *sessionlock.Lock){
		"the watch": nil,
		"Token":     func(ctx context.Context, beside *sessionlock.Lock) { _, _ = beside.Token(ctx) },
		"Unlock":    func(_ context.Context, beside *sessionlock.Lock) { _ = beside.Unlock() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := newDatabase(t)
			p, through := newProxy(t, dsn)
			db, other := openDB(t, dsn, through), openDB(t, dsn)
			conn := ownConn(t, db)
			lock := func(name string, often time.Duration) *sessionlock.Lock {
				k, err := sessionlock.New(db).LockConn(pulse.With(t.Context(), often), conn, hashkey.Name(name))
				wantNoError(t, err)
				return k
			}
			often := time.Hour
			if ask == nil {
				often = 400 * time.Millisecond
			}
			k, beside := lock("k", time.Hour), lock("beside", often)
			atGrant := errAtGrant(t, other, k)
			p.swallow.Store(&swallow{text: "select", hang: true, reached: make(chan struct{})})
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if ask != nil {
				go ask(ctx, beside)
			}
			wantError(t, <-atGrant, sessionlock.ErrLost)
			_, _ = k.Unlock(), beside.Unlock()
		})
	}
}

// Nor is a lock free before its holder is told where it is for the lock beside that the
// library ends the session, or for a call that asks for one there.
func TestSessionEndedForTheLockBeside(t *testing.T) {
	t.Parallel()
	type call struct {
		conn   *sql.Conn // nil if the locks are Shareable
		beside *sessionlock.Lock
		third  func() error // asks for a third lock
		p      *proxy
		s      *spoiler
	}
	const both, own = "own shareable", "own"
	for name, test := range map[string]struct {
		homes string
		ends  func(t *testing.T, c call) error
	}{
		"an unlock that is refused": {both, func(t *testing.T, c call) error {
			c.s.spoil("advisory_unlock", "advisory_unlok")
			return c.beside.Unlock()
		}},
		"an unlock that is not understood": {both, func(t *testing.T, c call) error {
			c.s.spoil("select pg_catalog.pg_advisory_unlock(", "select from pg_catalog.pg_advisory_unlock(")
			return c.beside.Unlock()
		}},
		"an answer to something else": {both, func(t *testing.T, c call) error {
			c.s.spoil("select pg_catalog.pg_advisory_unlock(", "select; select pg_catalog.pg_advisory_unlock(")
			return c.beside.Unlock()
		}},
		"a grant that is not understood": {both, func(t *testing.T, c call) error {
			c.s.spoil("select asked.slot", "select 'x' || asked.slot")
			return c.third()
		}},
		"a question that fails, and is not forsaken": {both, func(t *testing.T, c call) error {
			c.s.spoil("select asked.slot", "select 1/asked.slot", "select case when exists", "select 1/0, case when exists")
			return c.third()
		}},
		"a lock freed by hand": {own, func(t *testing.T, c call) error {
			text(t, c.conn, fmt.Sprintf(`select pg_advisory_unlock(%d)::text`, c.beside.Key().Int64()))
			return c.beside.Unlock()
		}},
		"a transaction left open": {own, func(t *testing.T, c call) error {
			_, err := c.conn.BeginTx(t.Context(), nil)
			wantNoError(t, err)
			return c.beside.Unlock()
		}},
		"a connection that is closed": {own, func(t *testing.T, c call) error {
			wantNoError(t, c.conn.Close())
			return c.beside.Unlock()
		}},
		"a statement without an answer": {own, func(t *testing.T, c call) error {
			s := &swallow{text: "pg_sleep", hang: true, reached: make(chan struct{})}
			c.p.swallow.Store(s)
			go func() { _, _ = c.conn.ExecContext(context.Background(), `select pg_sleep(0)`) }()
			received(t, "the statement is sent", s.reached)
			return c.beside.Unlock()
		}},
	} {
		for home := range strings.FieldsSeq(test.homes) {
			t.Run(home+", "+name, func(t *testing.T) {
				t.Parallel()
				dsn := newDatabase(t)
				c := call{s: new(spoiler)}
				p, through := newProxy(t, dsn)
				c.p = p
				db, other := openDB(t, dsn, through, c.s.on), openDB(t, dsn)
				o := homes[home]
				o.Check, o.DeadClient = time.Hour, 3*time.Hour
				l, ctx := sessionlock.New(db).With(o), pulse.With(t.Context(), time.Hour)
				lock := func(name string) (*sessionlock.Lock, error) { return l.Lock(ctx, hashkey.Name(name)) }
				if home == own {
					c.conn = ownConn(t, db)
					lock = func(name string) (*sessionlock.Lock, error) { return l.LockConn(ctx, c.conn, hashkey.Name(name)) }
				}
				k, err := lock("k")
				wantNoError(t, err)
				c.beside, err = lock("beside")
				wantNoError(t, err)
				c.third = func() error { _, err := lock("third"); return err }
				atGrant := errAtGrant(t, other, k)
				if err := test.ends(t, c); err == nil {
					t.Error("there is no error")
				}
				wantError(t, <-atGrant, sessionlock.ErrLost)
				_, _ = k.Unlock(), c.beside.Unlock()
				db.SetMaxIdleConns(-1) // to close one that is closed is an error at the end
				noTrace(t, other)
			})
		}
	}
}

// A cancel request that is slow to end is no silence of the server.
func TestSessionSlowCancelRequest(t *testing.T) {
	t.Parallel()
	for name, o := range homes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var late atomic.Bool
			db := openDB(t, newDatabase(t), wrapping(func(c net.Conn) net.Conn {
				return &slowReader{c, &late, late.Load(), func() { time.Sleep(3 * time.Second) }}
			}))
			k := lock(t, sessionlock.New(db).With(o), hashkey.Name("k"))
			late.Store(true)
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_, err := k.Token(ctx)
			wantError(t, err, context.DeadlineExceeded)
			late.Store(false)
			unlock(t, k)
		})
	}
}

// A cancel request that is not answered may reach a later message, so that the session is
// ended. The lock beside is not free before its holder is told.
func TestSessionBesideCancelUnanswered(t *testing.T) {
	t.Parallel()
	var late atomic.Bool
	over, dsn := make(chan struct{}), newDatabase(t)
	defer close(over)
	db := openDB(t, dsn, wrapping(func(c net.Conn) net.Conn { return &slowReader{c, &late, late.Load(), func() { <-over }} }))
	other, conn := openDB(t, dsn), ownConn(t, db)
	l := sessionlock.New(db).With(sessionlock.Options{Check: time.Hour, DeadClient: 3 * time.Hour})
	ctx := pulse.With(t.Context(), time.Hour)
	k, err := l.LockConn(ctx, conn, hashkey.Name("k"))
	wantNoError(t, err)
	beside, err := l.LockConn(ctx, conn, hashkey.Name("beside"))
	wantNoError(t, err)
	atGrant := errAtGrant(t, other, k)
	late.Store(true)
	ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	_, err = beside.Token(ctx)
	wantError(t, err, context.DeadlineExceeded)
	wantError(t, <-atGrant, sessionlock.ErrLost)
	late.Store(false)
	_, _ = k.Unlock(), beside.Unlock()
}

// slowReader gets answers 300 ms late when they are to be, and those to a cancel request
// when cancel has returned.
type slowReader struct {
	net.Conn
	late    *atomic.Bool
	request bool
	cancel  func()
}

func (c *slowReader) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	switch {
	case c.request:
		c.cancel()
	case c.late.Load():
		time.Sleep(300 * time.Millisecond)
	}
	return n, err
}

// Observe may unlock the lock that it is told of, and another one.
func TestSessionObserveUnlocks(t *testing.T) {
	t.Parallel()
	for name, o := range homes {
		for what, lost := range map[string]bool{"lost": true, "released": false} {
			t.Run(name+", "+what, func(t *testing.T) {
				t.Parallel()
				db, other := two(t)
				o := o
				o.Check = quick.Check
				locks, told := make(chan []*sessionlock.Lock, 1), make(chan struct{}, 2)
				o.Observe = func(e sessionlock.Event) {
					if e.Kind == sessionlock.Lost || e.Kind == sessionlock.Released {
						all := <-locks
						locks <- all
						for _, k := range all {
							_ = k.Unlock()
						}
						told <- struct{}{}
					}
				}
				l := sessionlock.New(db).With(o)
				all := []*sessionlock.Lock{lock(t, l, hashkey.Name("a")), lock(t, l, hashkey.Name("b"))}
				locks <- all
				if lost {
					terminateHolders(t, other)
				} else {
					unlock(t, all[0])
				}
				for range all {
					select {
					case <-told:
					case <-time.After(patience):
						t.Fatal("Observe does not return")
					}
				}
			})
		}
	}
}

// With MinHold, too, a statement that runs on Conn is cancelled for Unlock.
func TestSessionMinHoldUnderAStatement(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	k := lock(t, sessionlock.New(db).With(sessionlock.Options{MinHold: time.Second}), hashkey.Name("k"))
	slept := make(chan error, 1)
	go func() {
		_, err := k.Conn().ExecContext(context.Background(), `select pg_sleep(3600)`)
		slept <- err
	}()
	untilOneSleeps(t, other)
	unlock(t, k)
	if err := <-slept; sqlState(err) != "57014" {
		t.Errorf("the statement: %v, want that it is cancelled", err)
	}
	noTrace(t, other, db)
}
