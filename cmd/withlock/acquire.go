package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

const (
	// round is how long a waiter waits on the server before it makes sure that
	// the server still answers.
	round = 5 * time.Second

	// firstRound is how long a waiter waits before it looks what keeps it
	// waiting.
	firstRound = time.Second

	// silence is how long the server is away before that is said unasked.
	silence = 10 * time.Second
)

var errConflict = errors.New("another session has the lock")

// acquisition is how the program comes by its lock.
type acquisition struct {
	*program
	locker   *sessionlock.Locker
	deadline time.Time // of the wait; zero: there is none
	met      bool      // the server has said something
	answered bool      // namely that the lock is taken
	waited   bool      // a round is over
	outage   outage
	turn     turn
}

// acquire takes the lock. It returns errConflict if the lock is taken, and
// remains so for as long as the program may wait; ctx's cause if that ends; and
// else what makes the database of no use.
func (p *program) acquire(ctx context.Context) (*hold, error) {
	a := &acquisition{program: p, locker: sessionlock.New(p.db).With(p.lockOptions())}
	a.turn.locker = a.locker
	defer a.turn.end()
	if p.wait > 0 {
		a.deadline = time.Now().Add(p.wait)
	}
	ctx = p.pulsed(ctx)
	for {
		h, err := a.round(ctx)
		switch {
		case err == nil, ctx.Err() != nil:
			return h, err
		case errors.Is(err, errConflict):
			switch {
			case p.try:
				return nil, err
			case a.rest() <= 0:
				return nil, a.over(ctx)
			}
			a.taken(ctx)
		case !a.ride(ctx, err):
			return nil, a.away(err)
		}
	}
}

// over is the error of a program whose wait is over. A server that has fallen silent
// meanwhile has not said that the lock is taken.
func (a *acquisition) over(ctx context.Context) error {
	err := a.heard(ctx, 0, a.db.PingContext)
	if err == nil || lockerr.SQLState(err) != "" {
		return errConflict
	}
	return a.away(err)
}

// rest returns how long the program may still wait for the lock.
func (a *acquisition) rest() time.Duration {
	if a.deadline.IsZero() {
		return time.Hour // and then once more
	}
	return time.Until(a.deadline)
}

// round asks for the lock once. The first question does not wait.
func (a *acquisition) round(ctx context.Context) (*hold, error) {
	if !a.answered {
		return a.once(ctx, 0)
	}
	wait := min(round, a.rest())
	if !a.waited {
		wait = min(firstRound, wait)
	}
	if wait <= 0 {
		return nil, errConflict
	}
	if err := a.awaitTurn(ctx, wait); err != nil {
		return nil, err
	}
	h, err := a.once(ctx, min(wait, max(a.rest(), time.Millisecond)))
	a.waited = true
	return h, err
}

// awaitTurn waits for the turn of the program, where there are turns.
func (a *acquisition) awaitTurn(ctx context.Context, wait time.Duration) error {
	if a.slots > 1 {
		return nil
	}
	if a.shared {
		return a.heard(ctx, wait, func(ctx context.Context) error { return a.turn.pass(ctx, a.key, wait) })
	}
	if !a.waited || !a.turn.wanted(ctx, a.db, a.key) {
		return nil
	}
	return a.heard(ctx, wait, func(ctx context.Context) error { return a.turn.take(ctx, a.key, wait) })
}

// once asks for the lock, and waits for it so long.
func (a *acquisition) once(ctx context.Context, wait time.Duration) (h *hold, err error) {
	err = a.heard(ctx, wait, func(ctx context.Context) (err error) {
		if a.slots > 1 {
			h, err = askSlot(ctx, a.locker, a.key, a.slots, wait)
		} else {
			h, err = ask(ctx, a.locker, a.key, wait)
		}
		return err
	})
	return h, err
}

// heard does what waits on the server for at most wait. A server that does not
// answer is none.
func (a *acquisition) heard(ctx context.Context, wait time.Duration, f func(context.Context) error) error {
	asking, cancel := context.WithTimeoutCause(ctx, wait+answerTimeout, errNoAnswer)
	defer cancel()
	err := f(asking)
	var connect *pgconn.ConnectError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case asking.Err() != nil:
		return fmt.Errorf("%w (%w)", errNoAnswer, err)
	case errors.As(err, &connect): // as the wait ended while the server was connected to
		return connect
	case errors.Is(err, sessionlock.ErrNotAcquired):
		return errConflict
	}
	return err
}

// taken notes that the lock is taken.
func (a *acquisition) taken(ctx context.Context) {
	a.outage = outage{}
	if !a.answered && a.verbose {
		say(a.stderr, "waiting: %s", a.conflict(ctx))
	}
	a.answered = true
}

// ride waits for a database that is of no use at the moment, and reports whether
// to ask again.
func (a *acquisition) ride(ctx context.Context, err error) bool {
	why := absenceOf(err)
	if why == forGood {
		return false
	}
	a.met = a.met || why == notReady
	if why == notReady && a.turn.end() {
		return true // the turn takes a connection of its own, which the server may lack
	}
	a.outage.begin()
	until, ok := a.patience()
	if !ok || !until.IsZero() && time.Now().After(until) {
		return false
	}
	switch lasted := time.Since(a.outage.began); {
	case a.outage.said:
	case a.verbose:
		say(a.stderr, "waiting for the server: %s", reasonOf(err))
		a.outage.said = true
	case lasted > silence:
		say(a.stderr, "no database for %v, still waiting: %s", lasted.Round(time.Second), reasonOf(err))
		a.outage.said = true
	}
	a.outage.sleep(ctx, why, until)
	return true
}

// patience returns until when an outage may last, zero where there is no end,
// and whether the program waits for it at all.
func (a *acquisition) patience() (until time.Time, ok bool) {
	switch {
	case a.connectWaitGiven:
		until = a.outage.began.Add(a.connectWait)
		if a.answered && !a.deadline.IsZero() && a.deadline.Before(until) {
			until = a.deadline
		}
		return until, a.connectWait > 0
	case a.answered, a.met && !a.try:
		return a.deadline, true
	}
	return until, false
}

// away returns the error of a program that has no database.
func (a *acquisition) away(err error) error {
	if a.outage.began.IsZero() {
		return err
	}
	return &gaveUp{after: time.Since(a.outage.began), error: err}
}
