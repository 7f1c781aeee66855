package integration_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// readWrite is how readers and a writer of one key call, each from a pool of its own.
// pass is what a reader does before where writeInTurn is to be let in.
type readWrite struct {
	read, write, pass, writeInTurn func(ctx context.Context, f func()) error
}

// libraries returns that of each package. A wait of the writer's ends after wait.
func libraries(readers, writer *sql.DB, wait time.Duration) map[string]readWrite {
	key, turn := hashkey.Name("k"), hashkey.Name("turn of k")
	return map[string]readWrite{"xactlock": xactReadWrite(readers, writer, key, turn, wait), "sessionlock": sessionReadWrite(readers, writer, key, turn, wait)}
}

func xactReadWrite(readers, writer *sql.DB, key, turn hashkey.Key, wait time.Duration) readWrite {
	do := func(l *xactlock.Locker, key hashkey.Key) func(context.Context, func()) error {
		return func(ctx context.Context, f func()) error {
			return l.WithTx(ctx, key, func(context.Context, *sql.Tx) error { f(); return nil })
		}
	}
	l := xactlock.New(writer)
	return readWrite{
		read:  do(xactlock.New(readers).With(xactlock.Options{Shared: true}), key),
		write: do(l.With(xactlock.Options{Wait: wait}), key),
		pass:  do(xactlock.New(readers), turn),
		writeInTurn: func(ctx context.Context, f func()) error {
			return l.WithTx(ctx, turn, func(ctx context.Context, tx *sql.Tx) error {
				if err := l.Lock(ctx, tx, key); err != nil {
					return err
				}
				f()
				return nil
			})
		},
	}
}

func sessionReadWrite(readers, writer *sql.DB, key, turn hashkey.Key, wait time.Duration) readWrite {
	do := func(l *sessionlock.Locker, key hashkey.Key) func(context.Context, func()) error {
		return func(ctx context.Context, f func()) error {
			return l.WithLock(ctx, key, func(context.Context, *sql.Conn) error { f(); return nil })
		}
	}
	l := sessionlock.New(writer)
	write := do(l, key)
	return readWrite{
		read:  do(sessionlock.New(readers).With(sessionlock.Options{Shared: true}), key),
		write: do(l.With(sessionlock.Options{Wait: wait}), key),
		pass:  do(sessionlock.New(readers), turn),
		writeInTurn: func(ctx context.Context, f func()) error {
			return l.WithLock(ctx, turn, func(ctx context.Context, _ *sql.Conn) error { return write(ctx, f) })
		},
	}
}

// reader is one that has the lock once holding is closed, and until leave is called.
type reader struct {
	holding chan struct{}
	leave   func()
}

// enter has one more reader come, and wait for the lock.
func enter(t *testing.T, read func(ctx context.Context, f func()) error) reader {
	r, leave, left := reader{holding: make(chan struct{})}, make(chan struct{}), make(chan error, 1)
	ctx := bounded(t)
	go func() { left <- read(ctx, func() { close(r.holding); <-leave }) }()
	r.leave = func() { close(leave); wantNoError(t, <-left) }
	return r
}

// Readers of which each comes before the last one goes keep a writer out: it waits
// in slices, and at the end of each it is their turn.
func TestPitfallReadersStarveAWriter(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for name, c := range libraries(openSame(t, db), openSame(t, db), 3*time.Second) {
		first := enter(t, c.read)
		<-first.holding
		written := make(chan error, 1)
		go func() { written <- c.write(t.Context(), func() {}) }()
		until(t, "the writer waits", func() bool { return waitingLocks(t, db) == 1 })
		changes := 0
		for waits := true; waits; {
			next := enter(t, c.read)
			<-next.holding // although the writer came before
			first.leave()
			first = next
			changes++
			select {
			case err := <-written:
				wantError(t, err, sessionlock.ErrNotAcquired, context.DeadlineExceeded)
				waits = false
			default:
			}
		}
		first.leave()
		if changes < 3 {
			t.Errorf("%s: only %d readers came", name, changes)
		}
		noTrace(t, db)
	}
}

// A writer that waits under the lock of a second key, which readers pass through,
// is let in when the readers are gone that were there before.
func TestReadersPassTheTurn(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for name, c := range libraries(openSame(t, db), openSame(t, db), 0) {
		inTurn := func(ctx context.Context, f func()) error {
			if err := c.pass(ctx, func() {}); err != nil {
				return err
			}
			return c.read(ctx, f)
		}
		first := enter(t, inTurn)
		<-first.holding
		in, written := make(chan struct{}), make(chan error, 1)
		ctx, goOn := bounded(t), make(chan struct{})
		go func() { written <- c.writeInTurn(ctx, func() { close(in); <-goOn }) }()
		until(t, "the writer waits", func() bool { return waitingLocks(t, db) == 1 })
		next := enter(t, inTurn)
		until(t, "another reader waits", func() bool { return waitingLocks(t, db) == 2 })
		passes(t, db, time.Second) // two slices
		first.leave()
		<-in
		select {
		case <-next.holding:
			t.Errorf("%s: the later reader is in before the writer", name)
		default:
		}
		close(goOn)
		wantNoError(t, <-written)
		<-next.holding
		next.leave()
		noTrace(t, db)
	}
}
