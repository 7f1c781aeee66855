package gocronlock

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/go-co-op/gocron/v2"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// Elector is a [gocron.Elector] for [gocron.WithDistributedElector].
type Elector struct {
	leads  atomic.Pointer[sessionlock.Lock] // nil: this process does not lead
	cancel context.CancelFunc
	over   context.Context // ends with the campaign; the cause says why
}

// ErrNotLeader is what IsLeader returns, and gocron skips a run for, where another
// process leads, or none does.
var ErrNotLeader = errors.New("gocronlock: this process does not lead")

// NewElector begins to campaign for the lock of key, in the background: see
// [sessionlock.Locker.Lead]. The leader keeps the lock, and a connection of the
// pool, until it is lost, or until Close; with sessionlock.Options.MaxHold it is a
// candidate again after that. Options.MinHold is not looked at: another process may
// lead as soon as Close returns. logger is told of losses and of whatever stands in
// the way of the campaign, as with [NewLocker].
func NewElector(l *sessionlock.Locker, key hashkey.Key, logger gocron.Logger) *Elector {
	ctx, cancel := context.WithCancel(context.Background())
	over, end := context.WithCancelCause(context.Background())
	e := &Elector{cancel: cancel, over: over}
	logger = orDefault(logger)
	o := l.Options()
	o.MinHold = 0
	l = l.With(o)
	go func() {
		candidate := logged(l, logger)
		err := candidate.Lead(ctx, key, e.lead)
		for errors.Is(err, sessionlock.ErrMaxHold) { // one term is over
			err = candidate.Lead(ctx, key, e.lead)
		}
		if ctx.Err() == nil {
			logger.Error("gocronlock: the campaign is over", "key", key, "error", err)
		}
		end(err)
	}()
	return e
}

// lead is one term.
func (e *Elector) lead(ctx context.Context) error {
	e.leads.Store(sessionlock.FromContext(ctx))
	defer e.leads.Store(nil)
	<-ctx.Done()
	return context.Cause(ctx)
}

// IsLeader returns nil if this process leads, as far as it knows: a loss is noticed
// within sessionlock.Options.Check. Otherwise the error is [ErrNotLeader], joined
// with what ended the campaign, if anything has. It sends nothing to the server.
func (e *Elector) IsLeader(context.Context) error {
	if lock := e.leads.Load(); lock != nil && lock.Err() == nil {
		return nil
	}
	if e.over.Err() != nil {
		return fmt.Errorf("%w: %w", ErrNotLeader, context.Cause(e.over))
	}
	return ErrNotLeader
}

// Close ends the campaign, or the term: another process may lead when it returns.
// Call it after the scheduler's Shutdown. Calls after the first do nothing.
func (e *Elector) Close() {
	e.cancel()
	<-e.over.Done()
}
