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
	conns  *sqlconn.Pool
	opts   Options
	shared txlock.Locker
}

// pkg is the prefix of messages.
const pkg = "xactlock"

// New returns a Locker on db with the zero [Options]. It does not connect, and
// never closes or reconfigures db.
func New(db *sql.DB) *Locker {
	queue := admission.NewQueue(func() int { return db.Stats().MaxOpenConnections })
	l := &Locker{conns: sqlconn.New(db), shared: txlock.Locker{Package: pkg, Owner: db, Queue: queue}}
	if db == nil {
		l.shared.NoPool = errNilDB
	}
	return l
}

// With returns a Locker with the options o, on the same pool and with the same
// queue. o replaces all options of l; l does not change. To change one of
// them, start from [Locker.Options].
func (l *Locker) With(o Options) *Locker {
	if l == nil {
		return new(Locker) // its calls say so
	}
	with := *l
	with.opts = o
	with.shared = l.shared.With(o.settings(), newListener(&o))
	return &with
}

// Options returns the options of l.
func (l *Locker) Options() Options {
	if l == nil {
		return Options{}
	}
	return l.opts
}

// calls returns what calls are made by.
func (l *Locker) calls() *txlock.Locker {
	if l == nil || l.shared.Queue == nil {
		return none
	}
	return &l.shared
}

var none = txlock.None(pkg)
