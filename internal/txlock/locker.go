package txlock

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/admission"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/nesting"
)

// Locker is what the Lockers of xactlock and pgxlock have in common.
type Locker struct {
	Package  string // for messages
	Owner    any    // the pool, as nested calls are told by it
	Queue    *admission.Queue
	Settings Settings
	Bad      error     // what is wrong with the options
	Tell     *Listener // may be nil
	NoPool   error     // not nil where there is no pool
}

// With returns l with other settings and another listener.
func (l Locker) With(s Settings, tell *Listener) Locker {
	l.Settings, l.Tell, l.Bad = s, tell, s.Validate(l.Package)
	return l
}

// None returns the Locker of a package whose Locker is nil or zero: every call fails.
func None(pkg string) *Locker {
	return &Locker{Package: pkg, NoPool: errors.New(pkg + ": the Locker is nil or zero: New makes one")}
}

// Prepare makes c a call for keys, sorted and without duplicates, or where they are nil
// for key, or returns why there can be none. hasFn reports whether there is an fn.
func (l *Locker) Prepare(c *Call, key hashkey.Key, keys []hashkey.Key, try, hasFn bool) error {
	if keys == nil {
		c.oneKey[0] = key
		keys = c.oneKey[:]
	}
	c.Keys, c.Shared, c.Outcome = keys, l.Settings.Shared, Failed
	switch {
	case l.invalid() != nil:
		return l.invalid()
	case !hasFn:
		return errors.New(l.Package + ": fn is nil")
	case len(keys) == 0:
		return l.noKeys()
	}
	c.Request = acquire.Request{
		Package: l.Package,
		Queue:   l.Queue,
		Owner:   l.Owner,
		Kind:    nesting.Transaction,
		Keys:    keys,
	}
	c.Apply(&l.Settings, try)
	return nil
}

// CheckSlots returns why a call cannot be for one of n slots, or nil.
func (l *Locker) CheckSlots(op string, n int) error {
	if n < 1 || n > locksql.MaxSlots {
		return fmt.Errorf("%s: %s: %d slots, and it is 1 to %d", l.Package, op, n, locksql.MaxSlots)
	}
	return nil
}

// CheckTx returns why keys cannot be taken in tx, or nil.
func (l *Locker) CheckTx(tx any, keys []hashkey.Key) error {
	switch {
	case l.invalid() != nil:
		return l.invalid()
	case lockerr.IsNil(tx):
		return NilTx(l.Package)
	case len(keys) == 0:
		return l.noKeys()
	}
	return nil
}

// invalid returns why there can be no calls, or nil.
func (l *Locker) invalid() error { return cmp.Or(l.NoPool, l.Bad) }

// NilTx is the error where a transaction of the caller's own is nil.
func NilTx(pkg string) error { return errors.New(pkg + ": tx is nil") }

func (l *Locker) noKeys() error { return errors.New(l.Package + ": no keys") }
