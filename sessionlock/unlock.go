package sessionlock

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"
)

// Unlock is not bound by any ctx of the caller's: the lock of a call that was
// cancelled must be given back as well. What is on the wire after
// unlockPatience, which may be a statement of the caller's, is cancelled, and
// by unlockTimeout the connection is cut.
const (
	unlockTimeout  = 5 * time.Second
	unlockPatience = 4 * time.Second
)

var (
	errConnClosed = errors.New("the connection was closed by hand")
	errNotHeld    = errors.New("the session does not hold it any more")
	errLeftOpen   = errors.New("a transaction or rows were left open, and the session was ended")
)

// Unlock gives the lock back and puts the connection back into the pool, with
// its settings as they were. It takes at most about five seconds, whatever
// state the connection is in, and is idempotent: every call returns what the
// first one did, when that is done.
//
// In no case is the lock left in the pool. nil means that it was held until
// now and is free. [ErrLost] means that it was not held to the end. After
// either, and after any other error, the session that had it is closed if it
// could not be cleaned: an unlock that failed, that the server answered with
// false, or that found a transaction or rows left open on Conn (which is an
// error). A statement that is running on Conn gets four seconds to end,
// and is cancelled.
func (k *Lock) Unlock() error { return k.unlock() }

func (k *Lock) unlockOnce() error {
	k.end(ErrUnlocked) // of a lock that is lost it changes nothing
	deadline := time.Now().Add(unlockTimeout)
	ctx, cancel := context.WithTimeout(context.Background(), unlockPatience)
	defer cancel()
	over := interrupt(ctx, k.session.pg, leaving)
	var err error
	left := false
	rawErr := k.conn.Raw(func(any) error {
		left = !k.session.pg.IsClosed() && !k.session.usable()
		if err = k.releaseSession(); err != nil {
			k.session.discard()
		}
		return nil
	})
	over()
	<-k.watched
	if errors.Is(rawErr, sql.ErrConnDone) {
		k.session.cut() // whoever has the connection from the pool now has the lock
		return k.lostBy(errConnClosed)
	}
	if left {
		deadline = time.Time{} // it would only pass
	}
	k.giveBack(err != nil, deadline)
	return err
}

// giveBack gives the connection back to the pool, or has the pool forget it,
// and waits for that until deadline. database/sql waits for whatever rows and
// transaction the caller has open on the connection to be closed.
func (k *Lock) giveBack(dead bool, deadline time.Time) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if dead {
			_ = k.conn.Raw(func(any) error { return driver.ErrBadConn }) // which is what Raw returns
		}
		_ = k.conn.Close() // fails on a connection that Raw has closed
	}()
	closedWithin(done, time.Until(deadline))
}

// releaseSession unlocks on the session, and returns an error if the session
// must not be used any more.
func (k *Lock) releaseSession() error {
	s := k.session
	switch {
	case errors.Is(k.Err(), ErrLost):
		return k.lost()
	case s.pg.IsClosed():
		return k.lostBy(errDead)
	case !s.usable():
		return fmt.Errorf("sessionlock: %s: %w", k.key, errLeftOpen)
	}
	answer, err := s.send(context.Background(), unlockMessage(k.locker.opts.Shared, k.key, k.saved), leaving)
	switch {
	case err != nil && s.pg.IsClosed():
		return k.lostBy(err)
	case err != nil:
		return fmt.Errorf("sessionlock: %s: unlock: %w", k.key, err)
	case !yes(answer):
		return k.lostBy(errNotHeld)
	}
	return nil
}
