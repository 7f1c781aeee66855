// Package pgtx is a transaction that holds locks on a session in our hands:
// begun, waited for, committed or abandoned. It is what the pgx adapters of
// txlock have in common; they differ in what they give to fn.
package pgtx

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
	"github.com/pgadvisory/pgadvisory/internal/txlock"
)

// How long the messages of a call go on once their ctx has ended: see also
// [interrupt.Waiting] and [interrupt.Ending].
var (
	opening = interrupt.Policy{DeadlineDelay: time.Second}
	sending = interrupt.Policy{DeadlineGrace: 50 * time.Millisecond, CancelRequest: true, DeadlineDelay: 2 * time.Second}

	// Working is the policy of fn's statements.
	Working = interrupt.Policy{CancelRequest: true, DeadlineDelay: 2 * time.Second}
)

// errBusy: pgx has begun a message, and will not end it. Release closes the
// connection then.
var errBusy = errors.New("the connection is busy: a panic inside a statement, or a statement beside open rows, has left it so")

// Tx is a transaction that holds locks, or is to.
type Tx struct {
	Package string // of the call, for messages
	Session *pgsession.Session
	Trace   bool // tell pgx's tracer of the messages that open and end the transaction
	*locksql.Transaction
	Text   bool // fn may have taken prepared statements away: the end goes as text
	direct bool // no pooler is in between, as far as is known
}

// Open is [txlock.Conn]'s.
func (t *Tx) Open(ctx context.Context, o acquire.Opening) (granted bool, err error) {
	if t.Session.Pretends() {
		return false, lockerr.ErrUnsupportedServer
	}
	var a pgsession.Answer
	if o.Wait {
		if t.Slots > 0 {
			t.WaitSlot = rand.N(t.Slots)
		}
		a, err = t.open(ctx, interrupt.Waiting, t.Wait(o.Limit, o.Quiet))
	} else {
		a, err = t.open(ctx, opening, t.Try())
	}
	if pid := a.PID(); pid != "" {
		t.direct = pid == strconv.FormatUint(uint64(t.Session.PG().PID()), 10)
	}
	switch {
	case a.Standby():
		err = lockerr.ErrStandby
	case err == nil:
		return a.Granted() && !t.Session.Closed(), nil
	case o.Wait && lockerr.IsLockTimeout(err) && !t.Session.Closed():
		return false, nil // the slice is over
	}
	t.free(ctx, t.Abandon())
	return false, err
}

// open sends a message that begins the transaction.
func (t *Tx) open(ctx context.Context, p interrupt.Policy, m locksql.Message) (a pgsession.Answer, err error) {
	ctx, end := t.traced(ctx, m)
	defer func() { end(a, err) }()
	return t.Session.Open(ctx, p, m)
}

// send sends a message that ends it.
func (t *Tx) send(ctx context.Context, m locksql.Message) (a pgsession.Answer, err error) {
	ctx, end := t.traced(ctx, m)
	defer func() { end(a, err) }()
	return t.Session.Follow(ctx, interrupt.Ending, m)
}

// traced tells pgx's tracer that m is about to be sent. The function it returns
// tells it of the end, with the tag of the last statement that has succeeded.
func (t *Tx) traced(ctx context.Context, m locksql.Message) (context.Context, func(pgsession.Answer, error)) {
	if !t.Trace || !t.Session.Traces() {
		return ctx, func(pgsession.Answer, error) {}
	}
	ctx, end := t.Session.Trace(ctx, pgsession.Query{SQL: m.Text()})
	return ctx, func(a pgsession.Answer, err error) {
		tag := ""
		if n := len(a.Results); n > 0 {
			tag = a.Results[n-1].Tag
		}
		end(tag, err)
	}
}

// free frees, by m, what a message that failed may have left. If that fails, the session
// is discarded. m begins with a rollback, which is left out where the server would warn
// of it.
func (t *Tx) free(ctx context.Context, m locksql.Message) {
	if !t.Session.InTransaction() {
		m = m.WithoutRollback()
	}
	if t.Session.Closed() || len(m.Statements) == 0 {
		return
	}
	if _, err := t.send(ctx, m); err != nil {
		t.Session.Discard()
	}
}

// Cut is [txlock.Conn]'s. The server sees that the connection is closed when it
// next reads from it, and it reads when its statement has ended.
func (t *Tx) Cut() bool {
	t.Session.Interrupt()
	t.Session.Cut()
	return true
}

// Closed is [txlock.Conn]'s.
func (t *Tx) Closed() bool { return t.Session.Closed() }

// Rollback ends the transaction, if it is open. A session that is not usable
// after that is discarded.
func (t *Tx) Rollback(ctx context.Context) {
	if !t.Session.InTransaction() {
		t.Session.Rollback(ctx) // which sends nothing
		return
	}
	_, end := t.traced(ctx, locksql.One(locksql.Rollback))
	t.Session.Rollback(ctx)
	if t.Session.Closed() {
		end(pgsession.Answer{}, lockerr.ErrLost)
		return
	}
	end(pgsession.Answer{Results: []pgsession.Result{{Tag: locksql.Rollback.Tag}}}, nil)
}

// Refuse returns why the transaction cannot be committed, or nil, and the outcome.
// ended is not nil if fn ended the transaction, or tried to; failure is the error
// that failed it, if known.
//
// A session that is gone has the status that it last told. So what fn has ended is
// seen there too.
func (t *Tx) Refuse(ended, failure error) (txlock.Outcome, error) {
	pg := t.Session.PG()
	switch {
	case pg.TxStatus() == 'I':
		return txlock.Unknown, lockerr.TxEnded(t.Keys, lockerr.EndedByText)
	case pg.IsClosed():
		return txlock.RolledBack, lockerr.Lost(t.Keys, nil)
	case ended != nil:
		return txlock.RolledBack, ended
	case pg.TxStatus() == 'E':
		return txlock.RolledBack, Swallowed(t.Package, t.Keys, failure)
	}
	return txlock.Committed, nil
}

// Commit is [txlock.Conn]'s. Nothing may be open on the session.
func (t *Tx) Commit(ctx context.Context) (txlock.Outcome, error) {
	if t.Session.PG().IsBusy() {
		return txlock.RolledBack, fmt.Errorf("%s: %s: rolled back: %w", t.Package, lockerr.Keys(t.Keys), errBusy)
	}
	m, index := t.Transaction.Commit(t.Level == locksql.Serializable && t.direct)
	m.Prepare = m.Prepare && !t.Text
	a, err := t.send(ctx, m)
	outlives := index > 1
	if n := len(a.Results); outlives && err != nil && n > 0 && n < len(m.Statements) {
		t.free(ctx, t.Unlock(n == index))
	}
	return t.outcome(a, index, err)
}

// outcome returns what a message that commits has come to. a and err are its answer,
// and COMMIT is the statement with the index.
func (t *Tx) outcome(a pgsession.Answer, index int, err error) (txlock.Outcome, error) {
	keys := t.Keys
	fate := a.Fate(index, err)
	switch {
	case fate == pgsession.Executed && a.Results[index].Tag == "COMMIT":
		return txlock.Committed, nil
	case fate == pgsession.Executed:
		return txlock.RolledBack, Swallowed(t.Package, keys, nil)
	case fate == pgsession.Unknown:
		return txlock.Unknown, lockerr.CommitUnknown(keys, err)
	case NoSuchSavepoint(err):
		return txlock.Unknown, lockerr.TxEnded(keys, lockerr.EndedByText)
	case !pgsession.GoesOn(err):
		return txlock.RolledBack, lockerr.Lost(keys, err)
	}
	return txlock.Failed, fmt.Errorf("%s: %s: commit: %w", t.Package, lockerr.Keys(keys), err)
}

// Swallowed is the error where a statement failed and fn returned nil. failure
// is the statement's error, if known. pkg is the prefix of the message.
func Swallowed(pkg string, keys []hashkey.Key, failure error) error {
	err := fmt.Errorf("%s: %s: a statement failed and fn returned nil: %w", pkg, lockerr.Keys(keys), pgx.ErrTxCommitRollback)
	if failure != nil {
		err = fmt.Errorf("%w: %w", err, failure)
	}
	return err
}

// NoSuchSavepoint reports whether err is the answer to a RELEASE that is not in
// the transaction that the call began: there is no such savepoint, or no
// transaction.
func NoSuchSavepoint(err error) bool {
	const invalidSavepointSpecification = "3B001"
	return lockerr.SQLState(err) == invalidSavepointSpecification || lockerr.NoTransaction(err)
}

// Exec is [txlock.Execer]'s.
func (t *Tx) Exec(ctx, waitCtx context.Context, q pgsession.Query, limit time.Duration) txlock.Executed {
	if t.Session.Pretends() {
		return txlock.Executed{Outcome: txlock.Failed, Err: fmt.Errorf("%w: %s", lockerr.ErrUnsupportedServer, lockerr.Keys(t.Keys))}
	}
	before, after := t.Transaction.Exec(limit)
	a, index, sent, err := t.Session.Exec(ctx, waitCtx, sending, before, q, after)
	e := t.executed(waitCtx, a, index, sent, err)
	if e.Err != nil && e.Outcome != txlock.NotAcquired {
		e.Err = lockerr.Because(ctx, e.Err)
	}
	return e
}

func (t *Tx) executed(waitCtx context.Context, a pgsession.Answer, index int, sent bool, err error) txlock.Executed {
	commit := index + 1
	fate := a.Fate(commit, err)
	failed := func(o txlock.Outcome, err error) txlock.Executed { return txlock.Executed{Outcome: o, Err: err} }
	switch {
	case err == pgsession.ErrSimpleProtocol:
		return txlock.Executed{Unfit: true}
	case a.Standby(): // where nothing can be written
		return failed(txlock.Failed, fmt.Errorf("%w: %s", lockerr.ErrStandby, lockerr.Keys(t.Keys)))
	case fate == pgsession.NotExecuted && len(a.Results) >= index && !pgsession.GoesOn(err): // the lock was granted
		return failed(txlock.RolledBack, lockerr.Lost(t.Keys, err))
	case !sent && t.Session.Closed(), fate == pgsession.NotExecuted && sent && !pgsession.GoesOn(err):
		err = lockerr.AcquireError(waitCtx, t.Package, t.Keys, err)
		e := failed(txlock.OutcomeBefore(err), err)
		e.Dead = true
		return e
	case !sent && waitCtx.Err() != nil:
		return failed(txlock.NotAcquired, lockerr.AcquireError(waitCtx, t.Package, t.Keys, err))
	case !sent && lockerr.SQLState(err) == "":
		return failed(txlock.Failed, fmt.Errorf("%s: %s: %w", t.Package, lockerr.Keys(t.Keys), err))
	case !sent && !lockerr.IsSyntaxError(err): // perhaps the holder is about to make what is missing
		return txlock.Executed{Unfit: true}
	case !sent:
		return failed(txlock.RolledBack, err)
	case fate == pgsession.Executed && locksql.EndsTransaction(a.Results[index].Tag):
		return failed(txlock.Unknown, lockerr.TxEnded(t.Keys, lockerr.EndedByText))
	case fate != pgsession.NotExecuted || len(a.Results) == commit:
		o, err := t.outcome(a, commit, err)
		if err != nil {
			return failed(o, err)
		}
		return txlock.Executed{Outcome: o, Tag: a.Results[index].Tag}
	case len(a.Results) == index: // the caller's statement failed
		return failed(txlock.RolledBack, err)
	case waitCtx.Err() == nil && lockerr.WaitEnded(err) && !lockerr.AtDeadline(waitCtx):
		return txlock.Executed{Busy: true}
	}
	err = lockerr.AcquireError(waitCtx, t.Package, t.Keys, err)
	return failed(txlock.OutcomeBefore(err), err)
}
