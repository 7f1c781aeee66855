package main

import (
	"context"
	"database/sql"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/inspect"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// turn is a lock before the lock. A writer waits on the server in slices, and
// the readers that have come meanwhile are served between two of them; where
// their holds overlap, the writer would wait for ever. So a writer that finds
// readers in its way takes the turn while it waits, and a reader that finds the
// lock taken waits until there is no such writer.
//
// The turn is never waited for by a session that holds the lock.
type turn struct {
	locker *sessionlock.Locker
	held   *hold // nil while it is not
	failed bool  // it was given up, and is not to be taken again
}

// wanted reports whether a writer is to take the turn.
func (t *turn) wanted(ctx context.Context, db *sql.DB, key hashkey.Key) bool {
	if t.held != nil && t.held.Err() != nil { // its session has ended
		_ = t.held.Unlock()
		t.held = nil
	}
	if t.held != nil || t.failed {
		return false
	}
	ctx, cancel := toAnswer(ctx)
	defer cancel()
	locks, err := inspect.Of(ctx, db, key)
	if err != nil {
		return false // what is wrong shows when the lock is asked for
	}
	for _, lock := range locks {
		if lock.Granted && lock.Shared {
			return true
		}
	}
	return false
}

// take waits for the turn, and keeps it.
func (t *turn) take(ctx context.Context, key hashkey.Key, wait time.Duration) error {
	held, err := ask(ctx, t.locker, turnKey(key), wait)
	if err == nil {
		t.held = held
	}
	return err
}

// pass waits until no writer has the turn.
func (t *turn) pass(ctx context.Context, key hashkey.Key, wait time.Duration) error {
	held, err := ask(ctx, t.locker, turnKey(key), wait)
	if err != nil {
		return err
	}
	return held.Unlock()
}

// end gives the turn back, for good, and reports whether it was held.
func (t *turn) end() bool {
	if t.held == nil {
		return false
	}
	_ = t.held.Unlock() // what is wrong shows when the lock is asked for
	t.held, t.failed = nil, true
	return true
}
