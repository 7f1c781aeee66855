// Package gocronlock has the jobs of [github.com/go-co-op/gocron/v2] run on one of
// several schedulers: a [gocron.Locker], which has each run go to whichever
// scheduler is first, or a [gocron.Elector], which has one scheduler run all jobs.
package gocronlock

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/go-co-op/gocron/v2"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// tryFor bounds how long a run waits for a connection of the pool, and for the
// server's answer. A run that begins later is no run of that tick: another scheduler
// may have done the job meanwhile. Without a bound, ticks pile up while the pool is
// exhausted, and then run one after the other.
const tryFor = 5 * time.Second

// NewLocker returns a [gocron.Locker] for [gocron.WithDistributedLocker]. The key
// of a job is its name in the namespace ns, which keeps the jobs of several
// services in one database apart. It does not wait for the lock: while a job runs
// elsewhere it is skipped, and gocron.AfterLockError gets sessionlock.ErrNotAcquired.
// A run for which the pool has no connection within 5 seconds is skipped too, with
// that error joined with context.DeadlineExceeded.
//
// A scheduler whose clock is late comes when a short job is over, and would run it
// again. Give l a sessionlock.Options.MinHold that is shorter than the time between
// two runs, and 5 seconds longer than the clocks differ, because a run may wait for
// a connection for so long. With Options.Shareable, all jobs together take one
// connection of the pool:
//
//	l := sessionlock.New(db).With(sessionlock.Options{MinHold: 20 * time.Second, Shareable: true})
//	scheduler, err := gocron.NewScheduler(gocron.WithDistributedLocker(gocronlock.NewLocker(l, "billing", logger)))
//
// logger, which may be a *slog.Logger, is told of errors, because gocron logs none:
// a server that cannot be reached, a pool that has no connection in time, a lock that
// was lost while the job ran. The job is not told; gocron has no way to. nil means
// slog.Default.
//
// The lock always excludes: l's Options.Shared is not looked at.
func NewLocker(l *sessionlock.Locker, ns hashkey.Namespace, logger gocron.Logger) gocron.Locker {
	o := l.Options()
	o.Shared = false
	l = l.With(o)
	return locker{logged(l, orDefault(logger)), ns}
}

type locker struct {
	sessions *sessionlock.Locker
	ns       hashkey.Namespace
}

// Lock is [gocron.Locker]'s.
func (l locker) Lock(ctx context.Context, name string) (gocron.Lock, error) {
	ctx, cancel := context.WithTimeout(ctx, tryFor)
	defer cancel() // the lock stays
	lock, err := l.sessions.TryLock(ctx, l.ns.Name(name))
	if err != nil {
		return nil, err
	}
	return held{lock}, nil
}

type held struct{ lock *sessionlock.Lock }

// Unlock is [gocron.Lock]'s.
func (h held) Unlock(context.Context) error { return h.lock.Unlock() }

// logged returns l with errors going to logger too. A lock that another process has
// is no error, and neither is a ctx that was cancelled.
func logged(l *sessionlock.Locker, logger gocron.Logger) *sessionlock.Locker {
	o := l.Options()
	observe := o.Observe
	o.Observe = func(e sessionlock.Event) {
		if e.Err != nil && (!errors.Is(e.Err, sessionlock.ErrNotAcquired) || errors.Is(e.Err, context.DeadlineExceeded)) {
			logger.Error("gocronlock: "+e.Kind.String(), "key", e.Key, "error", e.Err)
		}
		if observe != nil {
			observe(e)
		}
	}
	return l.With(o)
}

func orDefault(logger gocron.Logger) gocron.Logger {
	if logger == nil {
		return slog.Default()
	}
	return logger
}
