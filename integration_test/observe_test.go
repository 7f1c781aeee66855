package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// observed returns the locker of a test of onEachPath with an observer, and
// what that has seen so far.
func observed(t *testing.T, l *xactlock.Locker, change ...func(*xactlock.Options)) (*xactlock.Locker, func() []xactlock.Event) {
	var events []xactlock.Event
	o := paths[pathOf(t)]
	for _, change := range change {
		change(&o)
	}
	o.Observe = func(e xactlock.Event) { events = append(events, e) }
	return l.With(o), func() []xactlock.Event { return events }
}

// once checks that there was one event, and returns it.
func once(t *testing.T, events []xactlock.Event) xactlock.Event {
	t.Helper()
	if len(events) != 1 {
		t.Fatalf("%d events, want 1: %v", len(events), events)
	}
	return events[0]
}

// Every call is one event, whatever way it goes, with the error that it
// returns.
func TestEventOfEachOutcome(t *testing.T) {
	t.Parallel()
	var (
		fails   = func(context.Context, *sql.Tx) error { return errExpected }
		divides = func(_ context.Context, tx *sql.Tx) error { _, _ = tx.Exec(`select 1/0`); return nil }
		commits = func(_ context.Context, tx *sql.Tx) error { _, _ = tx.Exec(`commit`); return nil }
		twice   = func(_ context.Context, tx *sql.Tx) error {
			_, err := tx.Exec(`insert into once values (1), (1)`)
			return err
		}
	)
	for _, test := range []struct {
		name    string
		fn      xactlock.Func
		change  func(*xactlock.Options)
		ctx     func(context.Context) context.Context
		outcome xactlock.Outcome
		held    bool
	}{
		{name: "success", fn: nothing, outcome: xactlock.Committed, held: true},
		{name: "error", fn: fails, outcome: xactlock.RolledBack, held: true},
		{name: "swallowed error", fn: divides, outcome: xactlock.RolledBack, held: true},
		{name: "commit inside", fn: commits, outcome: xactlock.Unknown, held: true},
		{name: "refused commit", fn: twice, outcome: xactlock.Failed, held: true},
		{name: "ended ctx", fn: nothing, outcome: xactlock.NotAcquired, ctx: func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx
		}},
		{name: "nil fn", outcome: xactlock.Failed},
		{name: "bad option", fn: nothing, outcome: xactlock.Failed, change: func(o *xactlock.Options) { o.Wait = -1 }},
	} {
		t.Run(test.name, func(t *testing.T) {
			onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
				exec(t, db, `create table once (n int unique deferrable initially deferred)`)
				change := func(o *xactlock.Options) { o.Shared = true }
				if test.change != nil {
					change = test.change
				}
				locker, events := observed(t, l, change)
				ctx := t.Context()
				if test.ctx != nil {
					ctx = test.ctx(ctx)
				}
				keys := []hashkey.Key{hashkey.Pair(1, 1), hashkey.Int64(5), hashkey.Pair(1, 1)}
				err := locker.WithTxAll(ctx, keys, test.fn)
				e := once(t, events())
				if e.Outcome != test.outcome || e.Err != err {
					t.Errorf("the event has %v, %v; the call returned %v, want %v", e.Outcome, e.Err, err, test.outcome)
				}
				if want := []hashkey.Key{hashkey.Int64(5), hashkey.Pair(1, 1)}; !slices.Equal(e.Keys, want) {
					t.Errorf("the event has the keys %v, want %v", e.Keys, want)
				}
				if e.Shared == (test.change != nil) || e.Contended {
					t.Errorf("the event has shared %t, contended %t", e.Shared, e.Contended)
				}
				if e.Held > 0 != test.held || e.Waited <= 0 || e.Queued < 0 {
					t.Errorf("queued %v, waited %v, held %v", e.Queued, e.Waited, e.Held)
				}
			})
		})
	}
}

// A refused try and a wait that ends are events as well.
func TestEventOfContention(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		holder := hold(t, l, hashkey.Name("k"))
		isContended := func(how string, call func(*xactlock.Locker) error, change ...func(*xactlock.Options)) {
			locker, events := observed(t, l, change...)
			err := call(locker)
			if e := once(t, events()); !e.Contended || e.Outcome != xactlock.NotAcquired || e.Err != err || e.Held != 0 || e.Waited <= 0 {
				t.Errorf("%s: %+v", how, e)
			}
		}
		isContended("a try", func(l *xactlock.Locker) error { return l.TryWithTx(t.Context(), hashkey.Name("k"), unreachable(t)) })
		wait := func(l *xactlock.Locker) error { return l.WithTx(t.Context(), hashkey.Name("k"), unreachable(t)) }
		isContended("a wait", wait, func(o *xactlock.Options) { o.Wait = 500 * time.Millisecond })
		isContended("a poll", wait, func(o *xactlock.Options) { o.Wait, o.Poll = 500*time.Millisecond, time.Millisecond })
		if err := holder.release(); err != nil {
			t.Error(err)
		}
	})
}

// The durations of a call that had to wait are at least as long as what it
// was made to wait for.
func TestEventDurations(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		locker, events := observed(t, l)
		holder := hold(t, l, hashkey.Name("k"))
		var held time.Duration
		began := time.Now()
		done := make(chan error, 1)
		go func() {
			done <- locker.WithTx(t.Context(), hashkey.Name("k"), func(_ context.Context, tx *sql.Tx) error {
				inside := time.Now()
				defer func() { held = time.Since(inside) }()
				_, err := tx.Exec(`select pg_sleep(0.02)`)
				return err
			})
		}()
		until(t, "the call waits", func() bool { return waitingLocks(t, db) == 1 })
		waiting := time.Now()
		until(t, "some time has passed", func() bool { return time.Since(waiting) > 20*time.Millisecond })
		waited := time.Since(waiting)
		if err := errors.Join(holder.release(), <-done); err != nil {
			t.Error(err)
		}
		all := time.Since(began)
		e := once(t, events())
		if !e.Contended || e.Waited < waited || e.Held < held || e.Waited+e.Held > all || e.Queued > e.Waited {
			t.Errorf("%+v; the wait was at least %v, fn took %v, and all %v", e, waited, held, all)
		}
	})
}

// The event of a call whose fn panics comes before the panic, and before both
// the connection is back.
func TestEventBeforePanic(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		inUse := -1
		locker, events := observed(t, l)
		func() {
			defer func() {
				if value := recover(); value != errExpected {
					t.Errorf("recovered %v", value)
				}
				inUse = db.Stats().InUse
				if e := once(t, events()); e.Outcome != xactlock.RolledBack || e.Err != nil || e.Held <= 0 {
					t.Errorf("%+v", e)
				}
			}()
			_ = locker.WithTx(t.Context(), hashkey.Name("k"), func(context.Context, *sql.Tx) error { panic(errExpected) })
		}()
		if inUse != 0 {
			t.Errorf("%d connections are in use when the panic arrives", inUse)
		}
	})
}

// Observe is called when the connection is back in the pool, and before the
// call returns.
func TestEventAfterTheConnection(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		o := paths[pathOf(t)]
		returned, seen := false, 0
		o.Observe = func(xactlock.Event) {
			seen++
			if n := db.Stats().InUse; n != 0 || returned {
				t.Errorf("%d connections are in use; the call has returned: %t", n, returned)
			}
		}
		for _, call := range calls(l.With(o)) {
			returned = false
			if err := call(t.Context(), nothing); err != nil {
				t.Error(err)
			}
			returned = true
		}
		if want := len(calls(l)); seen != want {
			t.Errorf("%d events, want %d", seen, want)
		}
	})
}

// A nested call is an event of its own, and comes first.
func TestEventOfNestedCall(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		locker, events := observed(t, l)
		err := locker.WithTx(t.Context(), hashkey.Name("outer"), func(ctx context.Context, tx *sql.Tx) error {
			_ = locker.WithTx(ctx, hashkey.Name("inner"), unreachable(t))
			return nil
		})
		got := events()
		if err != nil || len(got) != 2 || got[0].Outcome != xactlock.Failed || !errors.Is(got[0].Err, xactlock.ErrNested) ||
			got[1].Outcome != xactlock.Committed {
			t.Errorf("%v, %v", err, got)
		}
	})
}

// The outcomes have names of their own.
func TestOutcomeNames(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for o := xactlock.Committed; o <= xactlock.Unknown; o++ {
		seen[o.String()] = true
	}
	if len(seen) != 5 || seen[""] {
		t.Errorf("names are %v", seen)
	}
	if other := xactlock.Outcome(99).String(); seen[other] || other == "" {
		t.Errorf("an outcome that is none is called %q", other)
	}
}
