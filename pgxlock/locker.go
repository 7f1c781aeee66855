package pgxlock

import (
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pgadvisory/pgadvisory/internal/admission"
	"github.com/pgadvisory/pgadvisory/internal/txlock"
)

// A Locker takes locks through one pool. Make one for each pool and share it;
// it is safe for concurrent use, and holds nothing that must be closed.
//
// Most callers want [Locker.WithTx], which waits its turn. [Locker.TryWithTx]
// is for work that need not be done twice; [Locker.WithTxAll] is for several
// locks at once; [Locker.Lock] is for a transaction that the caller has begun.
type Locker struct {
	pool   *pgxpool.Pool
	opts   Options
	shared txlock.Locker
}

// New returns a Locker on pool with the zero [Options]. It does not connect, and
// never closes or reconfigures pool.
func New(pool *pgxpool.Pool) *Locker {
	l := &Locker{pool: pool, shared: txlock.Locker{Package: pkg, Owner: pool}}
	size := 0
	if pool == nil {
		l.shared.NoPool = errNilPool
	} else {
		size = int(pool.Config().MaxConns)
	}
	l.shared.Queue = admission.NewQueue(func() int { return size })
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
	with.shared = l.shared.With(settings(&o), newListener(&o))
	if o.Plain && with.shared.Bad == nil {
		with.shared.Bad = errPlain
	}
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
