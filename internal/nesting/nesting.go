// Package nesting marks a context with the locks that the callback it was given
// to holds. A call made with such a context can be refused where it would wait
// for ever: on another connection, for what this one holds. PostgreSQL sees two
// unrelated sessions there, and no deadlock.
package nesting

import (
	"context"
	"sync/atomic"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// Kind is the package whose lock a callback holds.
type Kind uint8

// The kinds of lock.
const (
	Transaction Kind = iota
	Session
)

// Context is a callback's context. It stops marking when Release is called, so
// that a context kept longer than the callback ran refuses nothing.
type Context struct {
	context.Context
	pool     any // a *sql.DB or a *pgxpool.Pool
	keys     []hashkey.Key
	kind     Kind
	released atomic.Bool
}

type contextKey struct{}

// With returns ctx marked as holding keys through a connection of pool, which
// is compared with ==.
func With(ctx context.Context, kind Kind, pool any, keys []hashkey.Key) *Context {
	return &Context{Context: ctx, pool: pool, keys: keys, kind: kind}
}

// Release ends the marking, when the callback has returned.
func (c *Context) Release() { c.released.Store(true) }

// Value is context.Context's.
func (c *Context) Value(key any) any {
	if key == (contextKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// Refuses reports whether a lock of keys, asked for with ctx, could wait for
// ever: ctx is that of a callback which holds one of keys through pool, by either
// kind of lock, or, where both are transactions, any key: with a small pool, the
// call would wait for the connection of its own caller.
func Refuses(ctx context.Context, kind Kind, pool any, keys []hashkey.Key) bool {
	return find(ctx, func(c *Context) bool {
		return c.pool == pool && (c.kind == Transaction && kind == Transaction || overlap(c.keys, keys))
	})
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
		ctx = c.Context
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
