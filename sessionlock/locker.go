package sessionlock

import (
	"database/sql"

	"github.com/pgadvisory/pgadvisory/internal/admission"
	"github.com/pgadvisory/pgadvisory/internal/sqlconn"
)

// A Locker takes locks through one pool. Make one for each pool and share it;
// it is safe for concurrent use, and holds nothing that must be closed.
//
// Most callers want [Locker.WithLock], which cannot forget the unlock.
// [Locker.TryWithLock] is for work that need not be done twice, [Locker.Lead]
// for work that one process of many must always be doing, and [Locker.Lock]
// for a lock that one function takes and another gives back.
//
// Every lock that is held takes one connection of the pool, but for those with
// Options.Shareable.
type Locker struct {
	db     *sql.DB
	conns  *sqlconn.Pool
	queue  *admission.Queue
	terms  *terms
	common *common
	opts   Options
	bad    error // what is wrong with opts
}

// New returns a Locker on db with the zero [Options]. It does not connect, and
// never closes or reconfigures db.
func New(db *sql.DB) *Locker {
	l := &Locker{db: db, conns: sqlconn.New(db), terms: new(terms), common: newCommon(), queue: admission.NewQueue(func() int { return db.Stats().MaxOpenConnections })}
	return l.With(Options{})
}

// With returns a Locker with the options o on the same pool. o replaces all
// options of l; l does not change.
func (l *Locker) With(o Options) *Locker {
	if l == nil {
		return new(Locker) // its calls say so
	}
	with := *l
	with.opts, with.bad = o, o.validate()
	return &with
}

// Options returns the options, to change one of them: set it in what Options
// returns, and give that to With.
func (l *Locker) Options() Options {
	if l == nil {
		return Options{}
	}
	return l.opts
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
