package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// poll is the mean pause between two questions for a lock that is taken.
//
// It is asked for, again and again, rather than queued for. A session that
// waits on the server holds a snapshot, which CREATE INDEX CONCURRENTLY waits
// for: if the command that has the lock runs that, neither ever goes on, and
// no deadlock detector sees why. The price is that there is no queue.
const poll = 100 * time.Millisecond

// check is how soon a session that has ended is noticed.
const check = 250 * time.Millisecond

var (
	errConflict = errors.New("somebody else has the lock")
	errNoAnswer = fmt.Errorf("no answer within %v", answerTimeout)
)

// acquire takes the lock. It returns errConflict if it is taken, and remains
// so for as long as the program may wait; ctx's cause if that ends; and else
// what makes the database of no use.
func (p *program) acquire(ctx context.Context) (*sessionlock.Lock, error) {
	locker := sessionlock.New(p.db).With(sessionlock.Options{Shared: p.shared, Check: check, Pooler: p.pooler})
	deadline := time.Now().Add(p.wait)
	for first := true; ; first = false {
		lock, err := p.ask(ctx, locker)
		if !errors.Is(err, errConflict) || p.try {
			return lock, err
		}
		if first && p.verbose {
			say(p.stderr, "waiting: %s", p.conflict(ctx))
		}
		pause := poll/2 + rand.N(poll)
		if p.wait > 0 {
			left := time.Until(deadline)
			if left <= 0 {
				return nil, errConflict
			}
			pause = min(pause, left)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// ask asks for the lock once. A server that does not answer is none.
func (p *program) ask(ctx context.Context, locker *sessionlock.Locker) (*sessionlock.Lock, error) {
	asking, cancel := context.WithTimeoutCause(ctx, answerTimeout, errNoAnswer)
	defer cancel()
	lock, err := locker.TryLock(asking, p.key)
	switch {
	case err == nil:
		return lock, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case asking.Err() != nil:
		return nil, fmt.Errorf("%w (%w)", errNoAnswer, err)
	case errors.Is(err, sessionlock.ErrNotAcquired):
		return nil, errConflict
	}
	return nil, err
}
