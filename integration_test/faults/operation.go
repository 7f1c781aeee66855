package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// patience is how long a call waits for its lock before it counts as starved.
const patience = 60 * time.Second

// errOwn is what a callback returns, or panics with, for the call to hand on.
var errOwn = errors.New("the callback's own error")

// An operation is one call, from its begin to its end.
type operation struct {
	call
	*journal
	id      int64
	locks   locks
	pool    *pool
	work    runner // what the holder of a session's lock works with
	r       *rand.Rand
	entered bool
}

// log adds an event of the operation.
func (o *operation) log(e event) {
	e.Op = o.id
	o.add(e)
}

func (o *operation) violated(key int, format string, args ...any) {
	o.violation(o.id, key, format, args...)
}

// run makes the call, and returns how it ended.
func (o *operation) run(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if o.Cancel > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer time.AfterFunc(o.Cancel, cancel).Stop()
	}
	o.log(event{What: evBegin, Call: &o.call})
	err := o.dispatch(ctx)
	outcome := o.outcome(err)
	end := event{What: evEnd, Outcome: outcome}
	if err != nil {
		end.Text = err.Error()
	}
	o.log(end)
	o.checkEnd(ctx, err, outcome)
	return outcome
}

// dispatch makes the call. A panic is the callback's own, or a bug, which ends
// the process.
func (o *operation) dispatch(ctx context.Context) (err error) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case errOwn:
			err = errOwn
		default:
			panic(p)
		}
	}()
	switch {
	case o.Verb == verbStranger:
		_, err := o.read(ctx, o.pool.runner(&o.call), o.Keys[0], "a")
		return err
	case o.Verb == "Exec":
		return o.exec(ctx)
	case o.session():
		return o.locks.session(ctx, o.pool, &o.call, o.inSession)
	}
	return o.locks.transaction(ctx, o.pool, &o.call, o.inTransaction)
}

// outcome says what an error tells of a call.
func (o *operation) outcome(err error) string {
	switch {
	case err == nil:
		return committed
	case errors.Is(err, xactlock.ErrCommitUnknown):
		return unknown
	case errors.Is(err, xactlock.ErrLost):
		return lost
	case errors.Is(err, xactlock.ErrNotAcquired):
		return notAcquired
	case errors.Is(err, errOwn):
		return rolledBack
	}
	return failed
}

// checkEnd checks what a call returned by itself. What else there is to check
// takes the other calls.
func (o *operation) checkEnd(ctx context.Context, err error, outcome string) {
	switch {
	case outcome == notAcquired && o.entered && !o.own() && o.Verb != "session Lead":
		o.violated(o.Keys[0], "the callback ran, and the call says it did not: %v", err)
	case outcome == notAcquired && o.patient() && errors.Is(ctx.Err(), context.DeadlineExceeded):
		o.violated(o.Keys[0], "starved: no lock within %v: %v", patience, err)
	case outcome == committed && (o.Style == styleError || o.Style == stylePanic || o.Style == styleFail) && o.entered:
		o.violated(o.Keys[0], "the callback failed, and the call returned nil")
	}
}

// observed checks what Options.Observe was told of a call of the library that
// returned err.
func (o *operation) observed(seen *observation, err error) {
	if mistake := seen.mistake(&o.call, err); mistake != "" {
		o.violated(o.Keys[0], "%s", mistake)
	}
}

// pause is the moment between two statements.
func (o *operation) pause() {
	if o.r.IntN(2) == 0 {
		time.Sleep(time.Duration(o.r.IntN(1500)) * time.Microsecond)
	}
}

// read returns a column of a register: a or b, or n, the last of its chain.
func (o *operation) read(ctx context.Context, on runner, key int, column string) (int64, error) {
	text := fmt.Sprintf("select $1::bigint, %s from register_%d", column, key)
	if column == "n" {
		text = fmt.Sprintf("select $1::bigint, coalesce(max(n), 0) from chain_%d", key)
	}
	var echo, value int64
	if err := on.queryRow(ctx, text, o.id).Scan(&echo, &value); err != nil {
		return 0, o.refused(key, err)
	}
	if echo != o.id {
		o.violated(key, "the answer to the question of operation %d reached operation %d", echo, o.id)
	}
	return value, nil
}

// refused returns err, the error of a statement. One it cannot be: as the holder
// of an exclusive lock is alone, and begins after the one before, no other can
// have changed a row since its snapshot.
func (o *operation) refused(key int, err error) error {
	if answer := new(pgconn.PgError); errors.As(err, &answer) && answer.Code == "40001" &&
		answer.Message == "could not serialize access due to concurrent update" {
		o.violated(key, "the snapshot was older than the lock: %v", err)
	}
	return err
}

// prove runs a statement in the session that has the lock. If it is answered,
// the lock was held when it was sent. An answer that says that the transaction
// is aborted is one, as the library's lock outlives that.
func (o *operation) prove(ctx context.Context, on runner) error {
	at := clock()
	_, err := on.exec(ctx, "select 1")
	if answer := new(pgconn.PgError); errors.As(err, &answer) && answer.Code == "25P02" {
		err = nil
	}
	if err == nil {
		o.log(event{At: at, What: evHeld})
	}
	return err
}

// waitForLoss waits until the callback is told that its lock is lost, or for a
// while, without a statement that could tell it so.
func (o *operation) waitForLoss(ctx context.Context, on runner) error {
	var pid int
	if err := on.queryRow(ctx, "select pg_backend_pid()").Scan(&pid); err != nil {
		return err
	}
	o.log(event{What: evSession, PID: pid})
	select {
	case <-ctx.Done():
		if errors.Is(context.Cause(ctx), sessionlock.ErrLost) {
			o.log(event{What: evTold})
		}
		return context.Cause(ctx)
	case <-time.After(idleFor):
		return nil
	}
}

// idleFor is how long a holder waits to be told.
const idleFor = 12 * time.Second
