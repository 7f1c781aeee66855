package sessionlock

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/nesting"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
	"github.com/pgadvisory/pgadvisory/internal/pulse"
)

// request is how one call asks for a lock.
type request struct {
	try   bool          // do not wait
	wait  time.Duration // Options.Wait
	lease time.Duration // >0: the server ends the session after such a silence
	pulse time.Duration // how often the session is asked for the lock
}

func (l *Locker) request(ctx context.Context, try bool) request {
	return request{try: try, wait: l.opts.Wait, pulse: pulse.Interval(ctx)}
}

// queues reports whether r waits on the server.
func (l *Locker) queues(r request) bool { return !r.try && l.opts.Poll == 0 }

// acquire checks connections out until the lock is granted on one, or the wait
// is over.
func (l *Locker) acquire(ctx context.Context, key hashkey.Key, r request) (*Lock, error) {
	if l.invalid != nil {
		return nil, l.invalid
	}
	if nesting.Refuses(ctx, nesting.Session, l.db, []hashkey.Key{key}) {
		return nil, about(key, ErrNested)
	}
	if r.wait > 0 && !r.try {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.wait)
		defer cancel()
	}
	for dead := 0; ; {
		k, err := l.attempt(ctx, key, r)
		switch {
		case err == nil:
			return k, nil
		case errors.Is(err, errRefused) && !r.try:
			if !sleep(ctx, l.opts.Poll) {
				return nil, notAcquired(ctx, key, nil)
			}
		case errors.Is(err, errDead) && dead < lockerr.DeadBudget(l.db.Stats().OpenConnections) && ctx.Err() == nil:
			dead++
		default:
			return nil, notAcquired(ctx, key, err)
		}
	}
}

// errDead is in the error of a session that ended while it was asked for the
// lock: it died in the pool, or during the wait.
var errDead = errors.New("the session ended")

// notAcquired returns the error of a call that ends without the lock.
func notAcquired(ctx context.Context, key hashkey.Key, err error) error {
	switch {
	case errors.Is(err, errRefused):
		return about(key, ErrNotAcquired)
	case errors.Is(err, ErrPooler), errors.Is(err, ErrStandby), errors.Is(err, ErrUnsupportedServer), errors.Is(err, ErrDriver):
		return about(key, err)
	}
	return lockerr.AcquireError(ctx, "sessionlock", []hashkey.Key{key}, err)
}

// attempt asks for the lock on one connection of the pool. The connection goes
// back if the lock is not granted, but only if it is certain that it is not.
func (l *Locker) attempt(ctx context.Context, key hashkey.Key, r request) (*Lock, error) {
	conn, err := l.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	var k *Lock
	rawErr := conn.Raw(func(driverConn any) error {
		s := pgsession.Unwrap(driverConn)
		if s == nil {
			err = fmt.Errorf("%w, and not a %T", ErrDriver, driverConn)
			return nil
		}
		if err = checkServer(s); err != nil {
			return nil
		}
		var clean bool
		if k, clean, err = l.askOn(ctx, s, key, r); !clean {
			s.Discard()
			return driver.ErrBadConn
		}
		return nil
	})
	if k != nil {
		k.pin(conn, r)
		return k, nil
	}
	if err == nil {
		err = rawErr // the pool was closed in between
	}
	_ = conn.Close() // an error means that Raw has discarded it
	return nil, err
}

// askOn asks for the lock on s, and waits for it there if r says so. It
// reports whether s may be used on: as the session that holds the lock, or for
// something else.
//
// After an error it may not. The server may have granted the lock all the
// same: just before it saw that the wait was too long, or while the answer was
// on its way.
func (l *Locker) askOn(ctx context.Context, s *pgsession.Session, key hashkey.Key, r request) (k *Lock, clean bool, err error) {
	if !s.Usable() {
		return nil, false, errDead // somebody left a transaction open in the pool
	}
	settings := pinned(l.opts.deadClient(), r.lease)
	pid := s.PG().PID()
	message, p := l.tryMessage(key, pid, settings), asking
	if l.queues(r) {
		message, p = l.waitMessage(key, pid, settings, untilDeadline(ctx)), waiting
	}
	answer, err := s.Send(ctx, p, message)
	if err != nil {
		if s.Closed() {
			err = fmt.Errorf("%w: %w", errDead, err)
		}
		return nil, false, err
	}
	saved, err := l.verdict(pid, answer)
	if err != nil {
		return nil, !waited(answer), err
	}
	return newLock(l, s, key, saved), true, nil
}

// checkServer returns why the locks of the server exclude nobody, as far as it
// has said so itself when the session began.
//
// Whether it is a hot standby is left to the message that locks: a client that
// has sent nothing since a promotion has not heard of it, and would refuse what
// is a primary by now.
func checkServer(s *pgsession.Session) error {
	if s.PG().ParameterStatus("crdb_version") != "" {
		return ErrUnsupportedServer
	}
	return nil
}

// untilDeadline returns the time that ctx leaves, at least a millisecond, or 0
// where it has no deadline.
func untilDeadline(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return max(time.Until(deadline), time.Millisecond)
}

// sleep sleeps for d and reports whether ctx let it.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
