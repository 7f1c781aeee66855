package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// recorder is a Tracer that notes what it is told, of one call at a time.
type recorder struct {
	t       *testing.T
	granted func() // called by TraceGranted, if not nil
	told    []string
	call    xactlock.Call
	atGrant xactlock.Event
	atEnd   xactlock.Event
}

type tracedKey struct{}

// isTraced checks that ctx is made from what TraceStart returned.
func (r *recorder) isTraced(ctx context.Context) {
	r.t.Helper()
	if ctx.Value(tracedKey{}) != r {
		r.t.Error("the ctx is not made from that of TraceStart")
	}
}

func (r *recorder) TraceStart(ctx context.Context, c xactlock.Call) context.Context {
	r.told = append(r.told, "start")
	r.call = c
	return context.WithValue(ctx, tracedKey{}, r)
}

func (r *recorder) TraceGranted(ctx context.Context, e xactlock.Event) {
	r.told = append(r.told, "granted")
	r.isTraced(ctx)
	r.atGrant = e
	if r.granted != nil {
		r.granted()
	}
}

func (r *recorder) TraceEnd(ctx context.Context, e xactlock.Event) {
	r.told = append(r.told, "end")
	r.isTraced(ctx)
	r.atEnd = e
}

// was checks what the tracer was told, and forgets it.
func (r *recorder) was(told ...string) {
	r.t.Helper()
	if !slices.Equal(r.told, told) {
		r.t.Errorf("told %v, want %v", r.told, told)
	}
	r.told = nil
}

var wholeCall = []string{"start", "granted", "end"}

// The tracer of every method is told of its start, its grant and its end, and all
// contexts are made from its own.
func TestTraceOfEachMethod(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		r := &recorder{t: t}
		o := paths[pathOf(t)]
		o.Trace = r
		l = l.With(o)
		key, other := hashkey.Name("k"), hashkey.Pair(1, 2)
		both := []hashkey.Key{key, other}
		fn := func(ctx context.Context, _ *sql.Tx) error {
			r.isTraced(ctx)
			r.told = append(r.told, "fn")
			return nil
		}
		number := func(ctx context.Context, tx *sql.Tx) (int, error) { return 1, fn(ctx, tx) }
		ctx := t.Context()
		calls := map[string]func() error{
			"WithTx":       func() error { return l.WithTx(ctx, key, fn) },
			"TryWithTx":    func() error { return l.TryWithTx(ctx, key, fn) },
			"WithTxAll":    func() error { return l.WithTxAll(ctx, both, fn) },
			"TryWithTxAll": func() error { return l.TryWithTxAll(ctx, both, fn) },
			"Value":        func() error { _, err := xactlock.Value(ctx, l, key, number); return err },
			"TryValue":     func() error { _, err := xactlock.TryValue(ctx, l, key, number); return err },
			"WithTxOf": func() error {
				return xactlock.WithTxOf(ctx, l, key, func(ctx context.Context) (*sql.Tx, error) {
					r.isTraced(ctx)
					return db.BeginTx(ctx, nil)
				}, fn)
			},
		}
		if !o.Plain || o.Isolation != sql.LevelSerializable {
			calls["WithSlot"] = func() error { return l.WithSlot(ctx, key, 2, fn) }
			calls["TryWithSlot"] = func() error { return l.TryWithSlot(ctx, key, 2, fn) }
		}
		for op, call := range calls {
			r.granted = func() {
				if heldLocks(t, db) == 0 {
					t.Errorf("%s: no lock is held at the grant", op)
				}
			}
			if err := call(); err != nil {
				t.Errorf("%s: %v", op, err)
			}
			r.was("start", "granted", "fn", "end")
			want := both[:1]
			if op == "WithTxAll" || op == "TryWithTxAll" {
				want = both
			}
			for what, got := range map[string]xactlock.Call{
				"start":   r.call,
				"granted": {Op: r.atGrant.Op, Keys: r.atGrant.Keys, Shared: r.atGrant.Shared},
				"end":     {Op: r.atEnd.Op, Keys: r.atEnd.Keys, Shared: r.atEnd.Shared},
			} {
				if got.Op != op || !slices.Equal(got.Keys, want) || got.Shared {
					t.Errorf("%s: %s: %+v", op, what, got)
				}
			}
			if r.atGrant.Outcome != xactlock.Granted || r.atGrant.Waited <= 0 || r.atGrant.Held != 0 {
				t.Errorf("%s: at the grant %+v", op, r.atGrant)
			}
			if r.atEnd.Outcome != xactlock.Committed || r.atEnd.Waited != r.atGrant.Waited || r.atEnd.Held <= 0 {
				t.Errorf("%s: at the end %+v", op, r.atEnd)
			}
		}
		r.granted = nil
		if _, err := l.Exec(ctx, key, `select 1`); err != nil {
			t.Error(err)
		}
		if oneMessage := !o.Plain && o.Isolation == sql.LevelDefault; oneMessage {
			r.was("start", "end")
		} else {
			r.was(wholeCall...)
		}
		if r.call.Op != "Exec" || r.atEnd.Outcome != xactlock.Committed {
			t.Errorf("Exec: %+v, %+v", r.call, r.atEnd)
		}
	})
}

// However a call ends, the tracer is told once, of what Observe is told of.
func TestTraceOfEachEnd(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		var observed []xactlock.Event
		r := &recorder{t: t}
		o := paths[pathOf(t)]
		o.Trace, o.Observe = r, func(e xactlock.Event) { observed = append(observed, e) }
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		key := hashkey.Name("k")
		for name, test := range map[string]struct {
			ctx     context.Context
			change  func(*xactlock.Options)
			fn      xactlock.Func
			told    []string
			outcome xactlock.Outcome
		}{
			"success":    {fn: nothing, told: wholeCall, outcome: xactlock.Committed},
			"error":      {fn: func(context.Context, *sql.Tx) error { return errExpected }, told: wholeCall, outcome: xactlock.RolledBack},
			"panic":      {fn: func(context.Context, *sql.Tx) error { panic(errExpected) }, told: wholeCall, outcome: xactlock.RolledBack},
			"Goexit":     {fn: func(context.Context, *sql.Tx) error { runtime.Goexit(); return nil }, told: wholeCall, outcome: xactlock.RolledBack},
			"ended ctx":  {ctx: ended, fn: unreachable(t), told: []string{"start", "end"}, outcome: xactlock.NotAcquired},
			"nil fn":     {told: []string{"start", "end"}, outcome: xactlock.Failed},
			"bad option": {change: func(o *xactlock.Options) { o.Wait = -1 }, fn: unreachable(t), told: []string{"start", "end"}, outcome: xactlock.Failed},
		} {
			ctx, with := t.Context(), o
			if test.ctx != nil {
				ctx = test.ctx
			}
			if test.change != nil {
				test.change(&with)
			}
			var returned error
			over := make(chan struct{})
			go func() {
				defer close(over)
				defer func() { _ = recover() }()
				returned = l.With(with).WithTx(ctx, key, test.fn)
			}()
			<-over
			r.was(test.told...)
			if len(observed) != 1 || !cmp.Equal(observed[0], r.atEnd, cmpopts.EquateComparable(hashkey.Key{}), cmpopts.EquateErrors()) {
				t.Errorf("%s: Observe was told %+v, the tracer %+v", name, observed, r.atEnd)
			}
			if r.atEnd.Outcome != test.outcome || r.atEnd.Err != returned || (r.atEnd.Held > 0) != (len(test.told) == len(wholeCall)) {
				t.Errorf("%s: %+v; the call returned %v", name, r.atEnd, returned)
			}
			observed = nil
		}
	})
}

// A Tracer that panics at the grant, or an observer that does at the end, leaves no
// lock, and the tracer is told of the end.
func TestTraceOfPanics(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		for name, change := range map[string]func(*recorder, *xactlock.Options){
			"TraceGranted": func(r *recorder, _ *xactlock.Options) { r.granted = func() { panic(errExpected) } },
			"Observe":      func(_ *recorder, o *xactlock.Options) { o.Observe = func(xactlock.Event) { panic(errExpected) } },
		} {
			r := &recorder{t: t}
			o := paths[pathOf(t)]
			o.Trace = r
			change(r, &o)
			func() {
				defer func() {
					if value := recover(); value != errExpected {
						t.Errorf("%s: recovered %v", name, value)
					}
				}()
				_ = l.With(o).WithTx(t.Context(), hashkey.Name("k"), nothing)
			}()
			r.was(wholeCall...)
			noTrace(t, db)
		}
	})
}

// Lock and TryLock are traced as well, whatever comes of them.
func TestTraceOfLock(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	r := &recorder{t: t}
	free, busy := hashkey.Name("free"), hashkey.Name("busy")
	h := hold(t, xactlock.New(db), busy)
	l := xactlock.New(db).With(xactlock.Options{Trace: r, Shared: true, Wait: 500 * time.Millisecond})
	stale := begin(t, db, &sql.TxOptions{Isolation: sql.LevelSerializable})
	for _, test := range []struct {
		name    string
		call    func(tx *sql.Tx) (bool, error)
		op      string
		told    []string
		outcome xactlock.Outcome
		err     error
	}{
		{"granted", func(tx *sql.Tx) (bool, error) { return true, l.Lock(t.Context(), tx, free) }, "Lock", wholeCall, xactlock.Granted, nil},
		{"granted at once", func(tx *sql.Tx) (bool, error) { return l.TryLock(t.Context(), tx, free) }, "TryLock", wholeCall, xactlock.Granted, nil},
		{"given up", func(tx *sql.Tx) (bool, error) { return false, l.Lock(t.Context(), tx, busy) }, "Lock", []string{"start", "end"}, xactlock.NotAcquired, xactlock.ErrNotAcquired},
		{"given up by asking", func(tx *sql.Tx) (bool, error) {
			o := l.Options()
			o.Poll = time.Millisecond
			return false, l.With(o).Lock(t.Context(), tx, busy)
		}, "Lock", []string{"start", "end"}, xactlock.NotAcquired, xactlock.ErrNotAcquired},
		{"refused", func(tx *sql.Tx) (bool, error) { return l.TryLock(t.Context(), tx, busy) }, "TryLock", []string{"start", "end"}, xactlock.NotAcquired, nil},
		{"stale", func(*sql.Tx) (bool, error) { return l.TryLock(t.Context(), stale, free) }, "TryLock", []string{"start", "end"}, xactlock.Failed, xactlock.ErrStaleSnapshot},
		{"no tx", func(*sql.Tx) (bool, error) { return false, l.Lock(t.Context(), nil, free) }, "Lock", []string{"start", "end"}, xactlock.Failed, nil},
	} {
		tx := begin(t, db, nil)
		ok, err := test.call(tx)
		r.was(test.told...)
		e := r.atEnd
		if e.Op != test.op || e.Outcome != test.outcome || e.Err != err || !e.Shared || len(e.Keys) != 1 || e.Waited <= 0 ||
			test.err != nil && !errors.Is(err, test.err) || ok != (test.outcome == xactlock.Granted) {
			t.Errorf("%s: %t, %v, %+v", test.name, ok, err, e)
		}
		_ = tx.Rollback()
	}
	if err := h.release(); err != nil {
		t.Error(err)
	}
}
