package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// round is how long a waiter waits on the server before it makes sure that the
// server still answers.
const round = 5 * time.Second

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
	lock, err := p.ask(ctx, locker.TryLock, answerTimeout)
	if !errors.Is(err, errConflict) || p.try {
		return lock, err
	}
	if p.verbose {
		say(p.stderr, "waiting: %s", p.conflict(ctx))
	}
	for deadline := time.Now().Add(p.wait); errors.Is(err, errConflict); {
		o := locker.Options()
		o.Wait = round
		if p.wait > 0 {
			if o.Wait = min(round, time.Until(deadline)); o.Wait <= 0 {
				return nil, errConflict
			}
		}
		lock, err = p.ask(ctx, locker.With(o).Lock, o.Wait+answerTimeout)
	}
	return lock, err
}

// ask asks for the lock once, by TryLock or Lock. A server that does not answer
// within d is none.
func (p *program) ask(ctx context.Context, by func(context.Context, hashkey.Key) (*sessionlock.Lock, error), d time.Duration) (*sessionlock.Lock, error) {
	asking, cancel := context.WithTimeoutCause(ctx, d, errNoAnswer)
	defer cancel()
	lock, err := by(asking, p.key)
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
