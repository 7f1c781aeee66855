package sessionlock

import (
	"context"
	"errors"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// This file notices that a lock is lost, in three ways, from the cheapest on.
//
// The socket is looked at every Options.Check, for whether the other side has
// closed it. On Linux that is a question to the kernel alone, which disturbs
// nobody; see peerclosed_linux.go. Elsewhere, and where the socket is not to be
// had because a dialer of the caller's own has wrapped it, pgx is made to read
// what may be there, for a millisecond.
//
// Then the connection is taken, as for a statement of the caller's, to see
// whether pgx has given it up, or the caller has closed it. This waits for a
// statement that is running. That is no loss of time: if the session ends
// under the statement, the statement fails and the connection comes free.
//
// Every ten seconds, finally, the server is asked whether the session has the
// lock, for what a socket cannot show: a network that swallows everything, or
// a DISCARD ALL.

var (
	errHungUp  = errors.New("the other side has closed the connection")
	errSilence = errors.New("the server does not answer")
)

// watch calls lose when the lock is lost, and returns when it is not held any
// more. pulse is how often the server is asked.
func (k *Lock) watch(pulse time.Duration) {
	defer close(k.watched)
	ticker := time.NewTicker(min(k.locker.opts.check(), pulse))
	defer ticker.Stop()
	asked := time.Now()
	for {
		select {
		case <-k.held.Done():
			return
		case <-ticker.C:
		}
		ask := time.Since(asked) >= pulse
		if err := k.look(ask, pulse/2); err != nil {
			k.lose(err)
			return
		}
		if ask {
			asked = time.Now()
		}
	}
}

// look returns why the lock is lost, or nil. If ask is true, the server is
// asked, and gets timeout for its answer.
func (k *Lock) look(ask bool, timeout time.Duration) error {
	hungUp, known := k.session.PeerClosed()
	if hungUp {
		return errHungUp
	}
	var lost error
	err := k.conn.Raw(func(any) error {
		switch s := k.session; {
		case k.held.Err() != nil: // unlocked while this waited for its turn
		case s.Closed():
			lost = errDead
		case s.PG().IsBusy(): // with rows that are open
		case ask:
			lost = k.ask(timeout)
		case !known:
			lost = s.Read()
		}
		return nil
	})
	if err != nil {
		// Whoever has got the connection from the pool has a lock that nobody
		// will ever give back.
		k.session.Cut()
		return errConnClosed
	}
	return lost
}

// ask asks the server for the lock. In a transaction of the caller's it only
// asks for an answer: the statement could fail there, or be the one that takes
// the transaction's snapshot.
func (k *Lock) ask(timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if k.session.InTransaction() {
		_, err := k.session.Send(ctx, checking, locksql.One(locksql.Statement{SQL: "-- is the session there?"}))
		return k.silence(ctx, err)
	}
	answer, err := k.session.Send(ctx, checking, locksql.Select("select "+locksql.Held(k.key)))
	if err == nil && !yes(answer) {
		return errNotHeld
	}
	return k.silence(ctx, err)
}

// silence returns the error of a question that was not answered. That the
// question was refused is an answer: whoever cancels statements, or may not
// read pg_locks, has a session all the same.
func (k *Lock) silence(ctx context.Context, err error) error {
	switch {
	case err != nil && ctx.Err() != nil:
		return errSilence
	case lockerr.IsAnswer(err) && !k.session.Closed():
		return nil
	}
	return err
}
