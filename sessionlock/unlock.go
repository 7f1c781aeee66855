package sessionlock

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
)

// Unlock is not bound by any ctx of the caller's: the lock of a call that was
// cancelled must be given back as well.
const (
	// unlockPatience is what a statement of the caller's gets that still runs,
	// and then the unlock: after it they are cancelled, and a second later the
	// connection is cut.
	unlockPatience = 4 * time.Second

	// poolPatience is for what is open on the connection to be closed.
	poolPatience = time.Second
)

var (
	errConnClosed = errors.New("the connection was closed, by hand or because a statement found it broken")
	errNotHeld    = errors.New("the session does not hold it any more")
	errOutstayed  = errors.New("the callback has outstayed Options.MaxHold and Grace, and the session was ended")
	errLeftOpen   = errors.New("a transaction or rows were left open, and the session was ended")
)

// Unlock gives the lock back and puts the connection back into the pool, with
// its settings as they were. It takes one message, and if the server does not
// answer about five seconds; a statement that is running on Conn gets four to
// end before that, and is cancelled then. Unlock is idempotent: every call
// returns what the first one did, when that is done.
//
// In no case is the lock left in the pool. nil means that it was held until
// now and is free. [ErrLost] means that it was not held to the end. After
// either, and after any other error, the session that had it is closed if it
// could not be cleaned: an unlock that failed, that the server answered with
// false, or that found a transaction or rows left open on Conn, which is an
// error.
//
// With Options.MinHold it may return nil before the lock is free.
func (k *Lock) Unlock() error { return k.unlock() }

func (k *Lock) unlockOnce() error {
	k.end(ErrUnlocked) // of a lock that is lost it changes nothing
	rest := k.locker.opts.MinHold - time.Since(k.granted)
	if rest <= 0 || errors.Is(k.Err(), ErrLost) {
		return k.release()
	}
	go func() {
		time.Sleep(rest)
		_ = k.release() // Observe is told
	}()
	return nil
}

// release gives the lock back, and tells Options.Observe.
func (k *Lock) release() error {
	err := k.giveBackLock()
	e := Event{Kind: Released, Key: k.key, Held: time.Since(k.granted), Err: err}
	if errors.Is(err, ErrLost) {
		e.Kind = Lost
	}
	k.locker.observe(e)
	return err
}

func (k *Lock) giveBackLock() error {
	if k.onCommon {
		return k.common.remove(k)
	}
	if k.common != nil {
		defer k.common.turns.give(k.key, k.locker.opts.Shared)
		defer k.seat.End()
	}
	ctx, cancel := context.WithTimeout(context.Background(), unlockPatience)
	defer cancel()
	over := sync.OnceFunc(interrupt.Start(ctx, k.session.PG(), leaving).Stop)
	var err error
	left := false
	rawErr := k.conn.Raw(func(any) error {
		over()
		left = !k.session.Closed() && !k.session.Usable()
		if err = k.releaseSession(); err != nil {
			k.session.Discard()
		}
		return nil
	})
	over()
	<-k.watched
	if errors.Is(rawErr, sql.ErrConnDone) {
		k.session.Cut() // whoever has the connection from the pool now has the lock
		return k.lostBy(errConnClosed)
	}
	returned := k.giveBack(err != nil)
	if !left {
		interrupt.ClosedWithin(returned, poolPatience)
	}
	return err
}

// giveBack gives the connection back to the pool, or has the pool forget it,
// and closes the channel when that is done: database/sql waits for whatever
// rows and transaction the caller has open on the connection to be closed.
func (k *Lock) giveBack(dead bool) (returned <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if dead {
			pgsession.Forget(k.conn)
		}
		_ = k.conn.Close() // fails on a connection that Raw has closed
	}()
	return done
}

// releaseSession unlocks on the session, and returns an error if the session
// must not be used any more.
func (k *Lock) releaseSession() error {
	s := k.session
	switch {
	case errors.Is(k.Err(), ErrLost):
		return k.lost()
	case s.Closed():
		return k.lostBy(errDead)
	case !s.Usable():
		return fmt.Errorf("sessionlock: %s: %w", k.key, errLeftOpen)
	}
	ctx, cancel := context.WithTimeout(context.Background(), unlockPatience)
	defer cancel()
	answer, err := s.Send(ctx, leaving, unlockMessage(k.locker.opts.Shared, k.key, k.saved))
	switch {
	case err != nil && s.Closed():
		return k.lostBy(err)
	case err != nil:
		return fmt.Errorf("sessionlock: %s: unlock: %w", k.key, err)
	case !yes(answer):
		return k.lostBy(errNotHeld)
	}
	return nil
}
