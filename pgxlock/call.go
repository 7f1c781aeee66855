package pgxlock

import (
	"context"
	"fmt"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/nesting"
	"github.com/pgadvisory/pgadvisory/internal/txlock"
)

// call is one call of a Locker.
type call struct {
	txlock.Call
	pool   pool
	oneKey [1]hashkey.Key
}

// newCall returns a call for keys, sorted and without duplicates, or why there
// can be none. For one key, keys is nil.
func (l *Locker) newCall(key hashkey.Key, keys []hashkey.Key, try bool, fn Func) (*call, error) {
	c := &call{oneKey: [1]hashkey.Key{key}}
	if keys == nil {
		keys = c.oneKey[:]
	}
	if l == nil {
		return c, errNoLocker
	}
	c.Keys, c.Shared, c.Outcome = keys, l.opts.Shared, txlock.Failed
	switch {
	case l.invalid() != nil:
		return c, l.invalid()
	case fn == nil:
		return c, errNilFunc
	case len(keys) == 0:
		return c, errNoKeys
	}
	c.Request = acquire.Request{
		Package: pkg,
		Pool:    &c.pool,
		Queue:   l.queue,
		Owner:   l.pool,
		Kind:    nesting.Transaction,
		Keys:    keys,
	}
	c.Apply(&l.settings, try)
	c.pool = pool{Pool: l.pool, fn: fn, transaction: l.settings.Transaction(keys)}
	return c, nil
}

// runSlot runs fn in one of n slots of key.
func (l *Locker) runSlot(ctx context.Context, op string, key hashkey.Key, n int, try bool, fn Func) error {
	c, err := l.newCall(key, nil, try, fn)
	if err == nil && (n < 1 || n > locksql.MaxSlots) {
		err = fmt.Errorf("pgxlock: %s: %d slots, and it is 1 to %d", op, n, locksql.MaxSlots)
	}
	c.Slots, c.pool.transaction.Slots = n, n
	return c.Do(ctx, l.listener(), op, err)
}

// run runs fn under the lock of key, or where keys is not nil under all of keys.
func (l *Locker) run(ctx context.Context, op string, key hashkey.Key, keys []hashkey.Key, try bool, fn Func) error {
	c, err := l.newCall(key, keys, try, fn)
	return c.Do(ctx, l.listener(), op, err)
}
