package xactlock

import (
	"database/sql"

	"github.com/pgadvisory/pgadvisory/internal/admission"
	"github.com/pgadvisory/pgadvisory/internal/sqlconn"
	"github.com/pgadvisory/pgadvisory/internal/txlock"
)

// A Locker takes locks through one pool. Make one for each pool and share it;
// it is safe for concurrent use, and holds nothing that must be closed.
//
// Most callers want [Locker.WithTx], which waits its turn. [Locker.TryWithTx]
// is for work that need not be done twice; [Locker.WithTxAll] is for several
// locks at once; [WithTxOf] is for an ORM's transaction, and [Locker.Lock] for one
// that the caller has begun.
type Locker struct {
	db    *sql.DB
	conns *sqlconn.Pool
	queue *admission.Queue

	opts     Options
	settings txlock.Settings  // of opts
	bad      error            // what is wrong with opts
	tell     *txlock.Listener // as opts say; may be nil
}

// New returns a Locker on db with the zero [Options]. It does not connect, and
// never closes or reconfigures db.
func New(db *sql.DB) *Locker {
	return &Locker{db: db, conns: sqlconn.New(db), queue: admission.NewQueue(func() int { return db.Stats().MaxOpenConnections })}
}

// With returns a Locker with the options o, on the same pool and with the same
// queue. o replaces all options of l; l does not change. To change one of
// them, start from [Locker.Options].
func (l *Locker) With(o Options) *Locker {
	if l == nil {
		return new(Locker) // its calls say so
	}
	with := &Locker{db: l.db, conns: l.conns, queue: l.queue, opts: o, settings: o.settings(), tell: newListener(&o)}
	with.bad = with.settings.Validate("xactlock")
	return with
}

// Options returns the options of l.
func (l *Locker) Options() Options {
	if l == nil {
		return Options{}
	}
	return l.opts
}

// listener returns what is told of calls, or nil.
func (l *Locker) listener() *txlock.Listener {
	if l == nil {
		return nil
	}
	return l.tell
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
