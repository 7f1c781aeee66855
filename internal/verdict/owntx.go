package verdict

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/txlock"
)

// OwnTx takes locks in a transaction of the caller's own.
type OwnTx struct {
	Package    string // of the call, for messages
	Exec       Exec   // in the transaction
	Apart      bool   // the transaction takes one statement at a time
	Keys       []hashkey.Key
	Shared     bool
	Wait, Poll time.Duration // as in the options
	Tell       *txlock.Listener
	Bad        error // why there can be no such call
}

// Own returns a request of l's for keys in tx. Exec and Apart are for its user to fill in.
func Own(l *txlock.Locker, tx any, keys []hashkey.Key) *OwnTx {
	return &OwnTx{
		Package: l.Package,
		Keys:    txlock.Ordered(keys),
		Shared:  l.Settings.Shared,
		Wait:    l.Settings.Wait,
		Poll:    l.Settings.Poll,
		Tell:    l.Tell.Tracer(),
		Bad:     l.CheckTx(tx, keys),
	}
}

// Lock takes the keys, waiting for all as long as ctx and Wait allow.
func (o *OwnTx) Lock(ctx context.Context) (err error) {
	_, err = o.told(ctx, "Lock", func(ctx context.Context) (bool, error) {
		err := o.lock(ctx)
		return err == nil, err
	})
	return err
}

// TryLock takes the keys, all or none, without waiting, and reports whether it
// did.
func (o *OwnTx) TryLock(ctx context.Context) (bool, error) {
	return o.told(ctx, "TryLock", o.tryLock)
}

// told tells of a call while it runs, also where its transaction panics.
func (o *OwnTx) told(ctx context.Context, op string, call func(context.Context) (bool, error)) (ok bool, err error) {
	c := txlock.Call{Plain: true, Outcome: txlock.Failed}
	c.Keys, c.Shared = o.Keys, o.Shared
	ctx = c.Tell(ctx, o.Tell, op)
	defer func() { c.Told(ctx, err) }()
	if err = o.Bad; err == nil {
		ok, err = call(ctx)
	}
	c.Answered(ok, err)
	return ok, err
}

func (o *OwnTx) lock(ctx context.Context) error {
	if o.Wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.Wait)
		defer cancel()
	}
	if o.Poll > 0 {
		return o.poll(ctx)
	}
	patient, cancel := PastDeadline(ctx)
	defer cancel()
	_, err := Ask(patient, o.Exec, locksql.WaitIn(o.Shared, o.Keys, acquire.UntilDeadline(ctx), false))
	return o.acquired(ctx, err)
}

func (o *OwnTx) tryLock(ctx context.Context) (bool, error) {
	patient, cancel := PastDeadline(ctx)
	defer cancel()
	var ok bool
	var err error
	if len(o.Keys) > 1 && o.Apart {
		ok, err = o.tryAll(patient)
	} else {
		ok, err = Ask(patient, o.Exec, locksql.TryIn(o.Shared, o.Keys, false))
	}
	return ok, o.acquired(ctx, err)
}

// tryAll asks for several keys by a statement that may lock some of them and
// refuse, and frees them then.
func (o *OwnTx) tryAll(ctx context.Context) (ok bool, err error) {
	if _, err := o.Exec(ctx, locksql.BeforeTry); err != nil {
		return false, err
	}
	ok, err = Ask(ctx, o.Exec, locksql.TryAllIn(o.Shared, o.Keys, false))
	if err == nil && !ok {
		_, err = o.Exec(ctx, locksql.UndoTry)
	}
	if lockerr.SQLState(err) == "" { // else the transaction has failed
		_, releaseErr := o.Exec(ctx, locksql.AfterTry)
		err = cmp.Or(err, releaseErr)
	}
	return ok && err == nil, err
}

func (o *OwnTx) poll(ctx context.Context) error {
	for {
		ok, err := o.tryLock(ctx)
		if ok || err != nil {
			return err
		}
		if !acquire.Sleep(ctx, o.Poll) {
			return lockerr.AcquireError(ctx, o.Package, o.Keys, nil)
		}
	}
}

// acquired returns the error of an attempt.
func (o *OwnTx) acquired(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case lockerr.NoTransaction(err):
		err = fmt.Errorf("tx is over, a statement has ended it: %w", err)
	}
	return lockerr.AcquireError(ctx, o.Package, o.Keys, err)
}
