package sessionlock

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/pulse"
)

// Pauses between two campaigns, while the database cannot be reached.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 5 * time.Second
)

// Lead makes one process of all that call it with the same key the leader: it
// waits for the lock of key and runs fn while it is held. The package comment
// tells what happens on each failure, and how long two leaders could overlap.
//
// fn's ctx ends when ctx does, when fn returns, and when the leadership is lost;
// its cause is then [ErrLost]. [FromContext] returns the lock that fn leads by,
// for its [Lock.Token].
//
// When fn returns, the lock is given back, and Lead returns fn's error. But if
// the leadership was lost, Lead waits for fn to return, does not look at what
// it returns, which is most likely a consequence, and campaigns again: fn may
// run many times, never twice at once. If fn panics, the lock is given back.
//
// Lead returns [ErrNotAcquired] joined with ctx's error if ctx ends while it
// campaigns, and joined with what kept it from asking, if the last attempt failed.
// While the database is away it tries again, with pauses that grow to five
// seconds. It gives up only on what waiting does not mend: a closed pool, a bad
// option or connection string, [ErrPooler], [ErrUnsupportedServer], [ErrNested], a
// driver that is not pgx, and what the server refuses for reasons of its own, such
// as a password. Options.Observe is told of each campaign and of each term.
//
// A process that has led lets the candidates of other processes go first: when it
// campaigns again it waits until the lock is free, with Options.MinHold, and for as
// long as they take to ask, which is half a second, or Options.Poll if that is longer,
// and a little more.
func (l *Locker) Lead(ctx context.Context, key hashkey.Key, fn func(ctx context.Context) error) error {
	switch {
	case l.invalid() != nil:
		return l.invalid()
	case fn == nil:
		return errNilFunc
	case l.opts.Shared:
		return errShared
	}
	pause, failure := firstPause, error(nil)
	for {
		if !l.terms.letOthers(ctx, key, max(l.opts.Poll, acquire.Slice)) {
			return campaignOver(ctx, key, failure)
		}
		k, err := l.acquire(ctx, key, l.candidacy(ctx))
		switch {
		case err == nil:
			pause, failure = firstPause, nil
			lost, err := l.term(ctx, k, fn)
			if !lost {
				return err
			}
			failure = k.Unlock()
		case ctx.Err() != nil && errors.Is(err, ErrNotAcquired): // ctx has cut the campaign
			if failure != nil {
				return campaignOver(ctx, key, failure)
			}
			return err
		case !worthwhile(err):
			return err
		default:
			failure = err
		}
		if !acquire.Sleep(ctx, jittered(pause)) {
			return campaignOver(ctx, key, failure)
		}
		pause = min(2*pause, lastPause)
	}
}

// term runs fn, gives the lock back, and reports whether it was lost. The end of the
// term is noted also where fn panics or ends the goroutine.
func (l *Locker) term(ctx context.Context, k *Lock, fn func(ctx context.Context) error) (lost bool, err error) {
	defer func() {
		free := k.granted.Add(l.opts.MinHold)
		if lost = k.wasLost(); lost {
			free = time.Now()
		}
		l.terms.ended(k.key, free)
	}()
	return false, k.during(ctx, fn)
}

// campaignOver is the error of a campaign that ctx has ended. failure is why the
// last attempt before came to nothing, if it did.
func campaignOver(ctx context.Context, key hashkey.Key, failure error) error {
	return lockerr.AcquireError(ctx, "sessionlock", []hashkey.Key{key}, failure)
}

// candidacy is how Lead asks for the lock. A process that is stopped keeps its
// connections, and its kernel answers for it, so the server is told to end a
// session that is silent for DeadClient, and the session not to be silent.
func (l *Locker) candidacy(ctx context.Context) request {
	lease := max(l.opts.deadClient(), time.Second)
	return request{lease: lease, pulse: min(pulse.Interval(ctx), lease/3)}
}

// worthwhile reports whether to campaign again after err: unless the pool is
// closed, or the server has refused for good.
func worthwhile(err error) bool {
	switch {
	case poolClosed(err):
		return false
	case errors.Is(err, ErrStandby): // it may be promoted
		return true
	case errors.Is(err, ErrPooler), errors.Is(err, ErrUnsupportedServer),
		errors.Is(err, ErrNested), errors.Is(err, ErrDriver), errors.As(err, new(*pgconn.ParseConfigError)):
		return false
	}
	return passing(lockerr.SQLState(err))
}

// poolClosed reports whether err says that the pool is closed. Neither
// database/sql nor pgxpool exports its error.
func poolClosed(err error) bool {
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			return poolClosed(inner)
		}
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(e.Unwrap(), poolClosed)
	}
	text := err.Error() // all of it: a message may have a key's name in it
	return text == "sql: database is closed" || text == "closed pool"
}

// passing reports whether a condition of the server is one that passes, by the
// class of its SQLSTATE: see the appendix of error codes in the PostgreSQL
// manual. Without one the server could not be reached.
func passing(code string) bool {
	if code == "" {
		return true
	}
	for _, class := range []string{
		"08", // connection exception
		"40", // rollback, deadlocks included
		"53", // out of connections, memory or locks
		"57", // shutting down, starting up, or a statement cancelled by an administrator
		"58", // trouble with the system
		"XX", // trouble with the server
	} {
		if strings.HasPrefix(code, class) {
			return true
		}
	}
	return false
}

// jittered returns something between half of d and d, so that candidates that
// lost the server together do not come back together.
func jittered(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2)
}
