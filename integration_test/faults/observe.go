package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// An observation is what Options.Observe was told of one call of the library,
// and what is known of the call without it.
type observation struct {
	events   []xactlock.Event
	entered  bool  // the callback ran
	fnErr    error // what the callback returned
	panicked bool  // the call did
}

// options are those of c, with Observe.
func (s *observation) options(c *call) xactlock.Options {
	o := c.transactionOptions()
	o.Observe = func(e xactlock.Event) { s.events = append(s.events, e) }
	return o
}

// around is fn, whose end is noted.
func (s *observation) around(fn txFunc) txFunc {
	return func(ctx context.Context, tx transaction) error {
		s.entered = true
		s.fnErr = fn(ctx, tx)
		return s.fnErr
	}
}

// mistake says what is wrong with what Observe was told of c, which returned
// err; "" where all is right.
func (s *observation) mistake(c *call, err error) string {
	if c.own() { // whose end the library does not see
		if len(s.events) > 0 {
			return fmt.Sprintf("Observe was told of a %s", c.Verb)
		}
		return ""
	}
	if len(s.events) != 1 {
		return fmt.Sprintf("Observe was told %d times of a call that returned %v", len(s.events), err)
	}
	e, keys := s.events[0], keysOf(c.Keys)
	slices.SortFunc(keys, hashkey.Compare)
	switch {
	case e.Op != c.Verb, e.Shared != c.Shared, !slices.Equal(e.Keys, keys):
		return fmt.Sprintf("Observe was told of a %s of %v, shared %t", e.Op, e.Keys, e.Shared)
	case fmt.Sprint(e.Err) != fmt.Sprint(err):
		return fmt.Sprintf("Observe was told of the error %v, and the call returned %v", e.Err, err)
	case !slices.Contains(s.outcomes(c, err), e.Outcome):
		return fmt.Sprintf("Observe was told %v of a call that returned %v", e.Outcome, err)
	case e.Queued < 0, e.Waited < e.Queued, e.Held < 0:
		return fmt.Sprintf("Observe was told of %v in the queue, %v of waiting, %v of holding", e.Queued, e.Waited, e.Held)
	}
	return ""
}

// outcomes are those that go with what is known of the call.
func (s *observation) outcomes(c *call, err error) []xactlock.Outcome {
	switch {
	case s.panicked:
		return []xactlock.Outcome{xactlock.RolledBack}
	case err == nil:
		return []xactlock.Outcome{xactlock.Committed}
	case errors.Is(err, xactlock.ErrCommitUnknown):
		return []xactlock.Outcome{xactlock.Unknown}
	case errors.Is(err, xactlock.ErrNotAcquired):
		return []xactlock.Outcome{xactlock.NotAcquired}
	case s.fnErr != nil:
		return []xactlock.Outcome{xactlock.RolledBack}
	case s.entered, c.Verb == "Exec":
		return []xactlock.Outcome{xactlock.RolledBack, xactlock.Failed}
	}
	return []xactlock.Outcome{xactlock.Failed}
}
