// Package cronlock has a job of [github.com/robfig/cron/v3] run on one of several
// machines.
package cronlock

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// tryFor bounds how long a run waits for a connection of the pool, and for the
// server's answer. A run that begins later is no run of that tick: another machine
// may have done the job meanwhile. Without a bound, ticks pile up while the pool is
// exhausted, and then run one after the other.
const tryFor = 5 * time.Second

// SkipIfHeldElsewhere returns a [cron.JobWrapper] that runs the job under the lock
// of key, and skips a run while the lock is taken: by another machine, or by this
// one's previous run.
//
//	l := sessionlock.New(db).With(sessionlock.Options{MinHold: 20 * time.Second, Shareable: true})
//	c := cron.New(cron.WithLogger(logger))
//	job := cron.NewChain(cronlock.SkipIfHeldElsewhere(l, hashkey.Name("billing/invoices"), logger)).Then(invoices)
//	c.AddJob("0 3 * * *", job)
//
// A machine with a late clock comes when a short job is over, and would run it
// again: hence the MinHold, which is shorter than the time between two runs, and 5
// seconds longer than the clocks differ, because a run may wait for a connection of
// the pool for so long. With Shareable all jobs together take one connection, and
// none is needed to see that this machine's previous run still goes on.
//
// A skip is logged at Info, as cron's own SkipIfStillRunning does it. Anything else
// that keeps the job from running is logged as an error, a pool that has no
// connection within 5 seconds included, and so is a lock that was lost while the
// job ran. A nil logger means [cron.DefaultLogger]. A panic of the job passes
// through, when the lock is free: [cron.Recover] goes before this wrapper in the
// chain.
//
// The lock always excludes: l's Options.Shared is not looked at.
//
// cron gives a job no context. One that must stop when its lock is lost, or not
// overlap at all, calls [sessionlock.Locker.TryWithLock] instead.
func SkipIfHeldElsewhere(l *sessionlock.Locker, key hashkey.Key, logger cron.Logger) cron.JobWrapper {
	if logger == nil {
		logger = cron.DefaultLogger
	}
	o := l.Options()
	o.Shared = false
	l = l.With(o)
	return func(job cron.Job) cron.Job {
		return cron.FuncJob(func() {
			ctx, cancel := context.WithTimeout(context.Background(), tryFor)
			defer cancel()
			err := l.TryWithLock(ctx, key, func(context.Context, *sql.Conn) error {
				job.Run() // for as long as it takes: the lock stays when ctx ends
				return nil
			})
			switch {
			case errors.Is(err, sessionlock.ErrNotAcquired) && !errors.Is(err, context.DeadlineExceeded):
				logger.Info("skip", "heldElsewhere", key)
			case err != nil:
				logger.Error(err, "run under a lock", "key", key)
			}
		})
	}
}
