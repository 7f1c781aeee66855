// Package lockerr holds the errors that the packages share, and classifies what
// a driver returns by its SQLSTATE.
package lockerr

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// The sentinels that the packages export, each the same value in all of them.
var (
	ErrNotAcquired       = errors.New("pgadvisory: lock not acquired")
	ErrNested            = errors.New("pgadvisory: lock asked for inside a callback that already holds one on this pool")
	ErrDeadlock          = errors.New("pgadvisory: deadlock detected")
	ErrLockTableFull     = errors.New("pgadvisory: the server's lock table is full (see max_locks_per_transaction)")
	ErrUnsupportedServer = errors.New("pgadvisory: the advisory locks of this server are not PostgreSQL's")
	ErrStandby           = errors.New("pgadvisory: advisory locks of a hot standby exclude nobody on the primary")
	ErrLost              = errors.New("pgadvisory: the lock was lost: its session is gone")
	ErrMaxHold           = errors.New("pgadvisory: Options.MaxHold is over")
	ErrTxEnded           = errors.New("pgadvisory: the transaction is the call's to end")
	ErrStaleSnapshot     = errors.New("pgadvisory: the transaction's snapshot may be older than the lock")
	ErrCommitUnknown     = errors.New("pgadvisory: it is not known whether COMMIT was executed")
	ErrPooler            = errors.New("pgadvisory: there is a connection pooler between this client and the server" +
		" (connect to the server directly, or set Options.Pooler if it pools sessions, or use xactlock)")
	ErrDriver = errors.New("pgadvisory: this needs a connection of pgx's stdlib, or a wrapper of one with a method Raw or WrappedConn that returns it")
)

// SQLSTATE codes, from the PostgreSQL manual's appendix of error codes.
const (
	codeDeadlock      = "40P01" // deadlock_detected
	codeLockTableFull = "53200" // out_of_memory, which is how shared memory for locks runs out
	codeLockTimeout   = "55P03" // lock_not_available
	codeCanceled      = "57014" // query_canceled
	codeFailed        = "25P02" // in_failed_sql_transaction
	codeNoTransaction = "25P01" // no_active_sql_transaction
	codeSyntaxError   = "42601" // syntax_error

	codeIdleInTransaction  = "25P03" // idle_in_transaction_session_timeout
	codeTransactionTimeout = "25P04" // transaction_timeout
)

// SQLState returns the SQLSTATE of err, whatever driver it comes from, or "".
func SQLState(err error) string {
	if err == nil {
		return ""
	}
	var e interface{ SQLState() string }
	if errors.As(err, &e) {
		return e.SQLState()
	}
	var f interface{ Field(byte) string } // bun's pgdriver has the fields of the protocol
	if errors.As(err, &f) {
		return f.Field('C')
	}
	return ""
}

// IsAnswer reports whether err is the server's word on a statement, and not
// one that ends the session (classes 57P and 08, and the timeouts of a transaction)
// or comes from the network.
func IsAnswer(err error) bool {
	switch code := SQLState(err); code {
	case "", codeIdleInTransaction, codeTransactionTimeout:
		return false
	default:
		return !strings.HasPrefix(code, "57P") && !strings.HasPrefix(code, "08")
	}
}

// WaitEnded reports whether err is the server's answer to a wait that reached a
// limit or was cancelled.
func WaitEnded(err error) bool {
	code := SQLState(err)
	return code == codeLockTimeout || code == codeCanceled
}

// Keys names keys in a message as people wrote them.
func Keys(keys []hashkey.Key) string {
	const most = 4
	var b strings.Builder
	for i, key := range keys {
		if i == most {
			fmt.Fprintf(&b, " and %d more", len(keys)-most)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(key.String())
	}
	return b.String()
}

// Ending is how fn has ended the transaction of its call, or tried to.
type Ending int32

// The endings.
const (
	NotEnded        Ending = iota
	EndedByCommit          // fn called tx.Commit
	EndedByRollback        // fn called tx.Rollback
	EndedByText            // a statement did
	EndedUnseen            // one of these
)

var endings = [...]string{
	EndedByCommit:   "fn called tx.Commit (return nil to commit, an error to roll back)",
	EndedByRollback: "fn called tx.Rollback (return an error to roll back, nil to commit)",
	EndedByText:     "a statement has committed or rolled back (the call does that: nil commits, an error rolls back)",
	EndedUnseen: "fn called tx.Commit or tx.Rollback, or a statement has committed or rolled back" +
		" (return nil to commit, an error to roll back)",
}

// TxEnded is the error where fn has ended, or tried to end, the call's transaction,
// which holds keys. It says what to do instead.
func TxEnded(keys []hashkey.Key, by Ending) error {
	return fmt.Errorf("%w: %s: %s", ErrTxEnded, Keys(keys), endings[by])
}

// Lost is the error where the session was gone before COMMIT was executed. err is
// what says so, or nil.
func Lost(keys []hashkey.Key, err error) error {
	if err == nil {
		return fmt.Errorf("%w: %s: nothing is committed", ErrLost, Keys(keys))
	}
	return fmt.Errorf("%w: %s: nothing is committed: %w", ErrLost, Keys(keys), err)
}

// CommitUnknown is the error where COMMIT may have been executed.
func CommitUnknown(keys []hashkey.Key, err error) error {
	return fmt.Errorf("%w: %s: %w", ErrCommitUnknown, Keys(keys), err)
}

// Foreign marks an error that is not of this library's statements: its SQLSTATE says
// nothing about the lock.
func Foreign(err error) error { return &foreign{err} }

type foreign struct{ error }

func (f *foreign) Unwrap() error { return f.error }

// AcquireError returns the error of an acquisition that failed with err.
//
// If ctx has ended, that is ErrNotAcquired joined with ctx's error and cause,
// also where the server's own limit, which is set to ctx's deadline, answered
// first. Otherwise err comes back with the sentinel of its SQLSTATE, if there
// is one, joined. pkg is the prefix of the message, unless err is this library's
// own and has one.
func AcquireError(ctx context.Context, pkg string, keys []hashkey.Key, err error) error {
	if why := Ended(ctx); why != nil {
		return notAcquired(keys, why, err)
	}
	code := SQLState(err)
	if errors.As(err, new(*foreign)) {
		code = ""
	}
	switch code {
	case codeLockTimeout: // the limit is this library's own, while it waits
		return notAcquired(keys, context.DeadlineExceeded, err)
	case codeDeadlock:
		return fmt.Errorf("%w: %s: %w", ErrDeadlock, Keys(keys), err)
	case codeLockTableFull:
		return fmt.Errorf("%w: %s: %w", ErrLockTableFull, Keys(keys), err)
	}
	if noSerializable(err) {
		return fmt.Errorf("%w: %s: %w", ErrStandby, Keys(keys), err)
	}
	for _, prefix := range []string{"pgadvisory: ", pkg + ": "} {
		if strings.HasPrefix(err.Error(), prefix) {
			return fmt.Errorf("%w: %s", err, Keys(keys))
		}
	}
	return fmt.Errorf("%s: %s: %w", pkg, Keys(keys), err)
}

// noSerializable reports whether err is a hot standby's answer to a session whose
// default is SERIALIZABLE. It comes ahead of all that could be asked for. The SQLSTATE
// has other meanings, and the message is in the server's language.
func noSerializable(err error) bool {
	var answer *pgconn.PgError
	return errors.As(err, &answer) && answer.Routine == "GetSerializableTransactionSnapshot"
}

// Ended returns ctx's error, joined with ctx's cause where that says more, or
// nil while ctx has not ended. A dial, a read or the server, which was given
// ctx's deadline, can notice it a moment before ctx does, so Ended waits
// for ctx once the deadline has passed.
func Ended(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && ctx.Err() == nil {
		if time.Now().Before(deadline) {
			return nil
		}
		const late = time.Second // a timer can be late, and a ctx of a kind of its own need not end at all
		select {
		case <-ctx.Done():
		case <-time.After(late):
			return context.DeadlineExceeded
		}
	}
	why := ctx.Err()
	if cause := context.Cause(ctx); !errors.Is(cause, why) {
		return fmt.Errorf("%w: %w", why, cause)
	}
	return why
}

// Because returns err with ctx's end joined, where ctx has ended and err does not
// have it: err is then most likely a consequence.
func Because(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil || errors.Is(err, ctx.Err()) && errors.Is(err, context.Cause(ctx)) {
		return err
	}
	return fmt.Errorf("%w (%w)", Ended(ctx), err)
}

// notAcquired returns ErrNotAcquired with why, and with what it looked like to
// the driver where that says more.
func notAcquired(keys []hashkey.Key, why, err error) error {
	if err == nil || errors.Is(err, why) || errors.Is(why, err) {
		return fmt.Errorf("%w: %s: %w", ErrNotAcquired, Keys(keys), why)
	}
	return fmt.Errorf("%w: %s: %w (%w)", ErrNotAcquired, Keys(keys), why, err)
}

// IsLockTimeout reports whether err is the server's answer to a wait that
// reached lock_timeout.
func IsLockTimeout(err error) bool { return SQLState(err) == codeLockTimeout }

// AtDeadline reports whether ctx's deadline has come, which ctx may
// notice a moment later.
func AtDeadline(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ok && !time.Now().Before(deadline)
}

// EndedWhileIdle reports whether the server ended the session because it was
// silent for too long in a transaction: what is sent after that is not executed.
func EndedWhileIdle(err error) bool { return SQLState(err) == codeIdleInTransaction }

// NoTransaction reports whether err is the server's answer to a statement that needs a
// transaction, where none is open.
func NoTransaction(err error) bool { return SQLState(err) == codeNoTransaction }

// IsSyntaxError reports whether err is the server's answer to a text that is no
// statement, or several where it must be one.
func IsSyntaxError(err error) bool { return SQLState(err) == codeSyntaxError }

// InFailedTransaction reports whether err is the server's answer to a statement in a
// transaction of which an earlier one has failed.
func InFailedTransaction(err error) bool { return SQLState(err) == codeFailed }

// IsNil reports whether a transaction that a caller has given is a nil interface
// or pointer.
func IsNil(tx any) bool {
	v := reflect.ValueOf(tx)
	return !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil()
}
