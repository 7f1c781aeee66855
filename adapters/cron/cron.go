// Package cronlock has a job of [github.com/robfig/cron/v3] run on one of several
// machines.
package cronlock

import (
	"context"
	"database/sql"
	"errors"

	"github.com/robfig/cron/v3"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// SkipIfHeldElsewhere returns a [cron.JobWrapper] that runs the job under the lock
// of key, and skips a run while the lock is taken: by another machine, or by this
// one's previous run.
//
//	l := sessionlock.New(db).With(sessionlock.Options{MinHold: 20 * time.Second})
//	c := cron.New(cron.WithLogger(logger))
//	job := cron.NewChain(cronlock.SkipIfHeldElsewhere(l, hashkey.Name("billing/invoices"), logger)).Then(invoices)
//	c.AddJob("0 3 * * *", job)
//
// A machine with a late clock comes when a short job is over, and would run it
// again: hence the MinHold, longer than the clocks differ and shorter than the
// time between two runs.
//
// A skip is logged at Info, as cron's own SkipIfStillRunning does it. Anything else
// that keeps the job from running is logged as an error, and so is a lock that was
// lost while the job ran. A panic of the job passes through, when the lock is free:
// [cron.Recover] goes before this wrapper in the chain.
//
// cron gives a job no context. One that must stop when its lock is lost, or not
// overlap at all, calls [sessionlock.Locker.TryWithLock] instead.
func SkipIfHeldElsewhere(l *sessionlock.Locker, key hashkey.Key, logger cron.Logger) cron.JobWrapper {
	return func(job cron.Job) cron.Job {
		return cron.FuncJob(func() {
			err := l.TryWithLock(context.Background(), key, func(context.Context, *sql.Conn) error {
				job.Run()
				return nil
			})
			switch {
			case errors.Is(err, sessionlock.ErrNotAcquired):
				logger.Info("skip", "heldElsewhere", key)
			case err != nil:
				logger.Error(err, "run under a lock", "key", key)
			}
		})
	}
}
