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
	pool  *pgxpool.Pool
	queue *admission.Queue

	opts     Options
	settings txlock.Settings  // of opts
	bad      error            // what is wrong with opts
	tell     *txlock.Listener // as opts say; may be nil
}

// New returns a Locker on pool with the zero [Options]. It does not connect, and
// never closes or reconfigures pool.
func New(pool *pgxpool.Pool) *Locker {
	size := 0
	if pool != nil {
		size = int(pool.Config().MaxConns)
	}
	return &Locker{pool: pool, queue: admission.NewQueue(func() int { return size })}
}

// With returns a Locker with the options o, on the same pool and with the same
// queue. o replaces all options of l; l does not change. To change one of
// them, start from [Locker.Options].
func (l *Locker) With(o Options) *Locker {
	if l == nil {
		return new(Locker) // its calls say so
	}
	with := &Locker{pool: l.pool, queue: l.queue, opts: o, settings: settings(&o), tell: newListener(&o)}
	with.bad = with.settings.Validate(pkg)
	if o.Plain && with.bad == nil {
		with.bad = errPlain
	}
	return with
}

// Options returns the options of l.
func (l *Locker) Options() Options {
	if l == nil {
		return Options{}
	}
	return l.opts
}

// listener returns the listener of l's calls; it may be nil.
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
	case l.pool == nil:
		return errNilPool
	}
	return l.bad
}
