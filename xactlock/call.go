package xactlock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
	"github.com/pgadvisory/pgadvisory/internal/txlock"
)

var (
	errNoLocker = errors.New("xactlock: the Locker is nil or zero: New makes one")
	errNilDB    = errors.New("xactlock: New was given a nil *sql.DB")
	errNilFunc  = errors.New("xactlock: fn is nil")
	errNilTx    = errors.New("xactlock: tx is nil")
	errNoKeys   = errors.New("xactlock: no keys")
)

// call is one call of a Locker.
type call struct {
	txlock.Call
	locker *Locker
	op     string
	pool   pool
	oneKey [1]hashkey.Key
	began  time.Time
}

// newCall returns a call for keys, sorted and without duplicates, or why there
// can be none. For one key, keys is nil.
func (l *Locker) newCall(op string, key hashkey.Key, keys []hashkey.Key, try bool, fn Func) (*call, error) {
	c := &call{locker: l, op: op, oneKey: [1]hashkey.Key{key}, began: time.Now()}
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
	c.Request = txlock.Request{
		Pool:  &c.pool,
		Queue: l.queue,
		Owner: l.db,

		Keys:       keys,
		Shared:     l.opts.Shared,
		Try:        try,
		Wait:       l.opts.Wait,
		Poll:       l.opts.Poll,
		MaxHold:    l.opts.MaxHold,
		MaxWaiters: l.opts.MaxWaiters,
	}
	c.pool = pool{db: l.db, opts: &l.opts, fn: fn, transaction: locksql.Transaction{
		Keys: keys, Shared: l.opts.Shared, Level: l.opts.level(), ReadOnly: l.opts.ReadOnly, MaxHold: l.opts.MaxHold,
	}}
	return c, nil
}

// run runs fn under the lock of key, or where keys is not nil of those.
func (l *Locker) run(ctx context.Context, op string, key hashkey.Key, keys []hashkey.Key, try bool, fn Func) (err error) {
	c, err := l.newCall(op, key, keys, try, fn)
	defer func() { c.observe(err) }()
	if err != nil {
		return err
	}
	return c.Run(ctx)
}

// invalid returns why the Locker cannot be used.
func (l *Locker) invalid() error {
	switch {
	case l == nil, l.queue == nil:
		return errNoLocker
	case l.db == nil:
		return errNilDB
	}
	return l.bad
}

// exec runs a statement under the lock of key, in one message where that can be.
func (l *Locker) exec(ctx context.Context, key hashkey.Key, e *execution) (err error) {
	c, err := l.newCall("Exec", key, nil, false, e.asFunc)
	defer func() { c.observe(err) }()
	switch {
	case err != nil:
		return err
	case !l.opts.oneMessage():
		return c.Run(ctx)
	}
	c.pool.query = &pgsession.Query{SQL: e.query, Args: e.args}
	rows, oneMessage, err := c.Exec(ctx)
	if oneMessage {
		e.result = result(rows)
	}
	return err
}

// observe tells Options.Observe of the end of the call. err is what the call
// returns; it is nil if it panics.
func (c *call) observe(err error) {
	if c.locker == nil || c.locker.opts.Observe == nil {
		return
	}
	if c.Waited == 0 { // the call was refused before it began to wait
		c.Waited = time.Since(c.began)
	}
	c.locker.opts.Observe(Event{
		Op:        c.op,
		Keys:      c.Keys,
		Shared:    c.Shared,
		Queued:    c.Queued,
		Waited:    c.Waited,
		Held:      c.Held,
		Contended: c.Contended,
		Plain:     c.pool.plain,
		Outcome:   Outcome(c.Outcome),
		Err:       err,
	})
}

// about names keys in an error.
func about(err error, keys []hashkey.Key) error {
	return fmt.Errorf("%w: %s", err, lockerr.Keys(keys))
}
