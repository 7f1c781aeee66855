package pgxlock

import (
	"context"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/txlock"
)

// call is one call of a Locker.
type call struct {
	txlock.Call
	pool pool
}

// newCall returns a call for keys, sorted and without duplicates, or why there
// can be none. For one key, keys is nil.
func (l *Locker) newCall(key hashkey.Key, keys []hashkey.Key, try bool, fn Func) (*call, error) {
	c, calls := new(call), l.calls()
	if err := calls.Prepare(&c.Call, key, keys, try, fn != nil); err != nil {
		return c, err
	}
	c.Pool = &c.pool
	c.pool = pool{Pool: l.pool, fn: fn, transaction: calls.Settings.Transaction(c.Keys)}
	return c, nil
}

// runSlot runs fn in one of n slots of key.
func (l *Locker) runSlot(ctx context.Context, op string, key hashkey.Key, n int, try bool, fn Func) error {
	c, err := l.newCall(key, nil, try, fn)
	if err == nil {
		err = l.calls().CheckSlots(op, n)
	}
	c.Slots, c.pool.transaction.Slots = n, n
	return c.Do(ctx, l.calls().Tell, op, err)
}

// run runs fn under the lock of key, or where keys is not nil under all of keys.
func (l *Locker) run(ctx context.Context, op string, key hashkey.Key, keys []hashkey.Key, try bool, fn Func) error {
	c, err := l.newCall(key, keys, try, fn)
	return c.Do(ctx, l.calls().Tell, op, err)
}
