package nesting_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/nesting"
)

type pool struct{ _ int }

func TestNesting(t *testing.T) {
	mine, other := new(pool), new(pool)
	a, b := []hashkey.Key{hashkey.Name("a")}, []hashkey.Key{hashkey.Name("b")}
	tx := nesting.With(t.Context(), nesting.Transaction, mine, a)
	session := nesting.With(t.Context(), nesting.Session, mine, a)
	inner, cancel := context.WithCancel(tx)
	defer cancel()
	for name, test := range map[string]struct {
		ctx                  context.Context
		pool                 *pool
		keys                 []hashkey.Key
		transaction, session bool
	}{
		"no callback":                         {t.Context(), mine, a, false, false},
		"the same key":                        {inner, mine, a, true, true},
		"another key":                         {inner, mine, b, true, false},
		"another pool":                        {inner, other, a, false, false},
		"the same key of a session":           {session, mine, a, true, true},
		"another key than a session's":        {session, mine, b, false, false},
		"a session's inside a transaction's":  {nesting.With(inner, nesting.Session, other, b), mine, b, true, false},
		"several keys, one of them a session": {session, mine, append(b, a...), true, true},
	} {
		if err := nesting.Refuse(test.ctx, nesting.Transaction, test.pool, test.keys); errors.Is(err, lockerr.ErrNested) != test.transaction {
			t.Errorf("%s: a transaction: %v", name, err)
		}
		if err := nesting.Refuse(test.ctx, nesting.Session, test.pool, test.keys); errors.Is(err, lockerr.ErrNested) != test.session {
			t.Errorf("%s: a session: %v", name, err)
		}
	}
	for wayOut, ctx := range map[string]context.Context{"WithTxAll": inner, "wait for itself": session} {
		if err := nesting.Refuse(ctx, nesting.Transaction, mine, a); err == nil || !strings.Contains(err.Error(), wayOut) || !strings.Contains(err.Error(), `"a"`) {
			t.Errorf("%v does not say %q and the key", err, wayOut)
		}
	}
	tx.Release()
	if err := nesting.Refuse(inner, nesting.Transaction, mine, a); err != nil {
		t.Errorf("a callback that has returned refuses: %v", err)
	}
}

// A callback's context ends by End, with a cause that its children share, and
// with the caller's.
func TestEnd(t *testing.T) {
	why := errors.New("why")
	for name, end := range map[string]func(c *nesting.Context, caller context.CancelCauseFunc){
		"End":    func(c *nesting.Context, _ context.CancelCauseFunc) { c.End(why) },
		"caller": func(_ *nesting.Context, caller context.CancelCauseFunc) { caller(why) },
	} {
		caller, cancel := context.WithCancelCause(t.Context())
		c := nesting.With(caller, nesting.Session, nil, nil)
		if err := c.Err(); err != nil {
			t.Errorf("%s: ended from the beginning: %v", name, err)
		}
		child, stop := context.WithCancel(c)
		end(c, cancel)
		<-child.Done()
		<-c.Done()
		if c.Err() != context.Canceled || context.Cause(c) != why || context.Cause(child) != why {
			t.Errorf("%s: %v, %v, %v", name, c.Err(), context.Cause(c), context.Cause(child))
		}
		stop()
		c.Release()
	}
}

// Release ends the context.
func TestRelease(t *testing.T) {
	c := nesting.With(t.Context(), nesting.Session, nil, nil)
	c.Release()
	<-c.Done()
	if c.Err() != context.Canceled {
		t.Errorf("got %v", c.Err())
	}
}

// A context whose call is over leaves nothing with the caller's.
func TestLeavesNothing(t *testing.T) {
	caller := &counting{Context: t.Context(), done: make(chan struct{})}
	for range 1000 {
		c := nesting.With(caller, nesting.Session, nil, nil)
		c.Release()
	}
	if n := caller.children.Load(); n > 0 {
		t.Errorf("%d are left", n)
	}
}

// counting is a context that counts what waits for its end.
type counting struct {
	context.Context
	done     chan struct{}
	children atomic.Int64
}

func (c *counting) Done() <-chan struct{} { return c.done }

// AfterFunc is what package context looks for.
func (c *counting) AfterFunc(func()) func() bool {
	c.children.Add(1)
	return func() bool { c.children.Add(-1); return true }
}
