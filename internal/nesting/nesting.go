// Package nesting is the context of a callback that holds locks.
//
// It is marked with the locks, so that a call made with it can be refused where
// it would wait for ever: on another connection, for what this one holds.
// PostgreSQL sees two unrelated sessions there, and no deadlock. And it ends when
// the locks are lost.
package nesting

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
)

// Kind is the kind of lock that a callback holds.
type Kind uint8

// The kinds of lock.
const (
	Transaction Kind = iota
	Session
)

// Context is a callback's context. It is the caller's, with an end of its own: by
// End, or by Release, when the call is over. From then on it marks nothing: what
// the callback has left running with it is refused nothing for that.
type Context struct {
	context.Context
	caller   context.Context
	end      context.CancelCauseFunc
	pool     any // a *sql.DB or a *pgxpool.Pool
	keys     []hashkey.Key
	kind     Kind
	released atomic.Bool
}

type contextKey struct{}

// With returns ctx marked as holding keys through a connection of pool, which
// is compared with ==.
func With(ctx context.Context, kind Kind, pool any, keys []hashkey.Key) *Context {
	own, end := context.WithCancelCause(ctx)
	return &Context{Context: own, caller: ctx, end: end, pool: pool, keys: keys, kind: kind}
}

// End ends the context, with a cause.
func (c *Context) End(cause error) { c.end(cause) }

// Release ends the context, and the marking, when the call is over.
func (c *Context) Release() {
	c.released.Store(true)
	c.end(nil)
}

// Caller returns the caller's context where ctx is a callback's, and otherwise
// ctx. A statement need not be ended for a session that is gone, so
// the caller's is the one to watch.
func Caller(ctx context.Context) context.Context {
	if c, ok := ctx.(*Context); ok {
		return c.caller
	}
	return ctx
}

// Value is context.Context's.
func (c *Context) Value(key any) any {
	if key == (contextKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// Refuse returns an error if a lock of keys, asked for with ctx, could wait for
// ever: ctx is that of a callback which holds one of keys through pool, by either
// kind of lock, or, where both are transactions, any key: with a small pool, the
// call would wait for the connection of its own caller.
func Refuse(ctx context.Context, kind Kind, pool any, keys []hashkey.Key) error {
	wayOut := ""
	find(ctx, func(c *Context) bool {
		switch {
		case c.pool != pool:
		case c.kind == Transaction && kind == Transaction:
			wayOut = "take a second key with Lock on the callback's transaction, or all keys with WithTxAll"
		case overlap(c.keys, keys):
			wayOut = "the callback holds it or a slot of it, and the call could wait for itself"
		}
		return wayOut != ""
	})
	if wayOut == "" {
		return nil
	}
	return fmt.Errorf("%w: %s (%s)", lockerr.ErrNested, lockerr.Keys(keys), wayOut)
}

func find(ctx context.Context, match func(*Context) bool) bool {
	for {
		c, ok := ctx.Value(contextKey{}).(*Context)
		if !ok {
			return false
		}
		if !c.released.Load() && match(c) {
			return true
		}
		ctx = c.caller
	}
}

func overlap(a, b []hashkey.Key) bool {
	for _, x := range a {
		for _, y := range b {
			if hashkey.Compare(x, y) == 0 {
				return true
			}
		}
	}
	return false
}
