package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// An imitation of the library has one mistake. finds matches the violations
// that show it. Where it takes a fault to show it, every other one is of that kind.
type imitation struct {
	locks locks
	finds string
	fault kind
}

// shownBy tells whether the mistake is among what was found.
func (i imitation) shownBy(violations []violation) bool {
	finds := regexp.MustCompile(i.finds)
	return slices.ContainsFunc(violations, func(v violation) bool { return finds.MatchString(v.text) })
}

const (
	overlap = "holds the lock together|one of them is lost|committed after it"
	stale   = "snapshot was older"
)

// imitations are what the checks are tried on: they must find every mistake.
var imitations = map[string]imitation{
	"no-lock":          {locks: noLock{}, finds: overlap + "|" + stale},
	"pooled-session":   {locks: pooledSession{}, finds: overlap + "|" + stale},
	"stale-snapshot":   {locks: byHand{}, finds: stale},
	"no-savepoint":     {locks: noSavepoint{}, finds: overlap},
	"unknown-as-error": {locks: unknownAsError{}, finds: "reported as failed, and there", fault: answerLost},
	"retried-commit":   {locks: retriedCommit{}, finds: "written 2 times", fault: answerLost},
	"two-answers":      {locks: twoAnswers{}, finds: "the answer to the question of operation"},
	"one-slot-more":    {locks: oneSlotMore{}, finds: "has a slot while"},
	"early-token":      {locks: earlyToken{}, finds: "its token is"},
	"never-told":       {locks: neverTold{}, finds: "was not told", fault: silentTerminated},
	"hangs-up":         {locks: hangsUp{}, finds: "hung up on its cancel request|PgBouncer has ended by itself"},
	"false-event":      {locks: falseEvent{}, finds: "Observe was told committed of"},
}

func brokenNames() string { return strings.Join(slices.Sorted(maps.Keys(imitations)), ", ") }

// locksFor returns the library, or a broken imitation.
func locksFor(broken string) (locks, error) {
	if broken == "" {
		return library{}, nil
	}
	i, ok := imitations[broken]
	if !ok {
		return nil, fmt.Errorf("there is no imitation %q; there are %s", broken, brokenNames())
	}
	return i.locks, nil
}

// simple tells whether c is one that the imitations make by hand: one exclusive
// lock, waited for.
func simple(c *call) bool { return c.Verb == "WithTx" && !c.Shared && c.Style != styleIdle }

func lockSQL(key hashkey.Key) string {
	if class, object, ok := key.Pair(); ok {
		return fmt.Sprintf("select pg_advisory_xact_lock(%d, %d)", class, object)
	}
	return fmt.Sprintf("select pg_advisory_xact_lock('%d'::bigint)", key.Int64())
}

func sessionLockSQL(key hashkey.Key) string {
	return strings.Replace(lockSQL(key), "pg_advisory_xact_lock", "pg_advisory_lock", 1)
}

func unlockSQL(key hashkey.Key) string {
	return strings.Replace(lockSQL(key), "pg_advisory_xact_lock", "pg_advisory_unlock", 1)
}

// begun runs fn in a transaction of c's level that first does what before does.
func begun(ctx context.Context, p *pool, c *call, before func(*sql.Tx) error, fn txFunc) (err error) {
	tx, err := p.db.BeginTx(ctx, &sql.TxOptions{Isolation: c.Level})
	if err != nil {
		return err
	}
	defer func() {
		if rollback := tx.Rollback(); err == nil && !errors.Is(rollback, sql.ErrTxDone) {
			err = rollback
		}
	}()
	if err := before(tx); err != nil {
		return err
	}
	if err := fn(ctx, newSQLTx(tx)); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("%w: %w", xactlock.ErrCommitUnknown, err)
	}
	return nil
}

// noLock locks nothing.
type noLock struct{ library }

func (l noLock) transaction(ctx context.Context, p *pool, c *call, fn txFunc) error {
	if !simple(c) {
		return l.library.transaction(ctx, p, c, fn)
	}
	return begun(ctx, p, c, func(*sql.Tx) error { return nil }, fn)
}

// pooledSession locks and unlocks through the pool, on whatever connection it
// gets, whose connections are replaced now and then. It waits for a short time:
// the pool may have no connection for the holder, or one that keeps the lock.
type pooledSession struct{ library }

func (l pooledSession) transaction(ctx context.Context, p *pool, c *call, fn txFunc) error {
	if !simple(c) || c.Via != viaDirect {
		return l.library.transaction(ctx, p, c, fn)
	}
	p.db.SetConnMaxLifetime(100 * time.Millisecond)
	key := keyOf(c.Keys[0])
	waiting, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := p.db.ExecContext(waiting, sessionLockSQL(key)); err != nil {
		return err
	}
	err := begun(ctx, p, c, func(*sql.Tx) error { return nil }, fn)
	_, unlock := p.db.ExecContext(ctx, unlockSQL(key))
	if err == nil {
		return nil // what the unlock said is not looked at
	}
	return errors.Join(err, unlock)
}

// byHand begins, locks and goes on: at the higher levels with a snapshot from
// before the wait.
type byHand struct{ library }

func (l byHand) transaction(ctx context.Context, p *pool, c *call, fn txFunc) error {
	if !simple(c) || c.Level < sql.LevelRepeatableRead {
		return l.library.transaction(ctx, p, c, fn)
	}
	return begun(ctx, p, c, lockIn(ctx, c), fn)
}

func lockIn(ctx context.Context, c *call) func(*sql.Tx) error {
	return func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, lockSQL(keyOf(c.Keys[0])))
		return err
	}
}

// noSavepoint has nothing between the lock and fn's statements, so that one
// that fails frees the lock.
type noSavepoint struct{ library }

func (l noSavepoint) transaction(ctx context.Context, p *pool, c *call, fn txFunc) error {
	if !simple(c) || c.Level >= sql.LevelRepeatableRead {
		return l.library.transaction(ctx, p, c, fn)
	}
	return begun(ctx, p, c, lockIn(ctx, c), fn)
}

// unknownAsError reports a COMMIT without an answer as one that failed.
type unknownAsError struct{ library }

func (l unknownAsError) transaction(ctx context.Context, p *pool, c *call, fn txFunc) error {
	return hideUnknown(l.library.transaction(ctx, p, c, fn))
}

func (l unknownAsError) exec(ctx context.Context, p *pool, c *call, query string, args ...any) (int64, error) {
	rows, err := l.library.exec(ctx, p, c, query, args...)
	return rows, hideUnknown(err)
}

func hideUnknown(err error) error {
	if errors.Is(err, xactlock.ErrCommitUnknown) {
		return fmt.Errorf("commit failed: %v", err)
	}
	return err
}

// retriedCommit does it all again after a COMMIT without an answer.
type retriedCommit struct{ library }

func (l retriedCommit) transaction(ctx context.Context, p *pool, c *call, fn txFunc) error {
	err := l.library.transaction(ctx, p, c, fn)
	for errors.Is(err, xactlock.ErrCommitUnknown) {
		err = l.library.transaction(ctx, p, c, fn)
	}
	return err
}

// twoAnswers ends a transaction through the pooler with two messages in one
// write, COMMIT and an unlock.
type twoAnswers struct{ library }

func (l twoAnswers) transaction(ctx context.Context, p *pool, c *call, fn txFunc) error {
	err := l.library.transaction(ctx, p, c, fn)
	if err == nil && c.Via == viaPooled {
		_ = endInTwo(ctx, p, keyOf(c.Keys[0])) // what it does to others is what counts
	}
	return err
}

// endInTwo makes another transaction, which ends as twoAnswers says. That the
// unlock takes a moment gives the client the time to die between the answers.
// Half give up there, as pgx does when ctx ends.
func endInTwo(ctx context.Context, p *pool, key hashkey.Key) error {
	conn, err := p.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Raw(func(driverConn any) error {
		pg := driverConn.(*stdlib.Conn).Conn().PgConn()
		if err := pg.Exec(ctx, "begin; "+lockSQL(key)).Close(); err != nil {
			return err
		}
		pg.Frontend().Send(&pgproto3.Query{String: "commit"})
		pg.Frontend().Send(&pgproto3.Query{String: "select 1, 0 from pg_sleep(0.005)"})
		if err := pg.Frontend().Flush(); err != nil {
			return errors.Join(err, pg.Close(ctx))
		}
		return errors.Join(readTo(ctx, pg, 1+rand.IntN(2)), pg.Conn().Close())
	})
}

// readTo reads as many answers to their ends.
func readTo(ctx context.Context, pg *pgconn.PgConn, answers int) error {
	for answers > 0 {
		message, err := pg.ReceiveMessage(ctx)
		if err != nil {
			return err
		}
		if _, ok := message.(*pgproto3.ReadyForQuery); ok {
			answers--
		}
	}
	return nil
}

// oneSlotMore counts the slots from 0 to n.
type oneSlotMore struct{ library }

func (l oneSlotMore) transaction(ctx context.Context, p *pool, c *call, fn txFunc) error {
	if c.Verb != "WithSlot" {
		return l.library.transaction(ctx, p, c, fn)
	}
	return p.transactions.With(c.transactionOptions()).WithSlot(ctx, keyOf(c.Keys[0]), slotsOf+1, withSQL(fn))
}

func (l oneSlotMore) session(ctx context.Context, p *pool, c *call, fn sessionFunc) error {
	if c.Verb != "session WithSlot" {
		return l.library.session(ctx, p, c, fn)
	}
	return p.sessions.With(c.sessionOptions()).WithSlot(ctx, keyOf(c.Keys[0]), slotsOf+1, withSession(fn))
}

// earlyToken has its transaction's id before it has the lock.
type earlyToken struct{ library }

func (l earlyToken) transaction(ctx context.Context, p *pool, c *call, fn txFunc) error {
	if !simple(c) || c.Level >= sql.LevelRepeatableRead {
		return l.library.transaction(ctx, p, c, fn)
	}
	return begun(ctx, p, c, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, "select pg_current_xact_id()"); err != nil {
			return err
		}
		if err := lockIn(ctx, c)(tx); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "savepoint locked")
		return err
	}, fn)
}

// neverTold has callbacks that do not learn of a loss.
type neverTold struct{ library }

func (l neverTold) transaction(ctx context.Context, p *pool, c *call, fn txFunc) error {
	return l.library.transaction(ctx, p, c, func(txCtx context.Context, tx transaction) error {
		return fn(context.WithoutCancel(txCtx), tx)
	})
}

func (l neverTold) session(ctx context.Context, p *pool, c *call, fn sessionFunc) error {
	return l.library.session(ctx, p, c, func(lockCtx context.Context, k held) error {
		return fn(context.WithoutCancel(lockCtx), k)
	})
}

// hangsUp sends a cancel request after each transaction through the pooler, and
// does not wait for PgBouncer's answer.
type hangsUp struct{ library }

func (l hangsUp) transaction(ctx context.Context, p *pool, c *call, fn txFunc) error {
	err := l.library.transaction(ctx, p, c, fn)
	if c.Via == viaPooled {
		_ = cancelInHaste(ctx, p) // what PgBouncer sees of it is what counts
	}
	return err
}

func cancelInHaste(ctx context.Context, p *pool) error {
	conn, err := p.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Raw(func(driverConn any) error {
		pg := driverConn.(*stdlib.Conn).Conn().PgConn()
		running := pg.Exec(ctx, "select pg_sleep(0.01)")
		hasty, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		return errors.Join(pg.CancelRequest(hasty), running.Close())
	})
}

// falseEvent tells Observe of a transaction that was rolled back as if it were
// committed.
type falseEvent struct{ library }

func (l falseEvent) transaction(ctx context.Context, p *pool, c *call, fn txFunc) error {
	lying := *c
	lying.observed = func(seen *observation, err error) {
		for i := range seen.events {
			if seen.events[i].Outcome == xactlock.RolledBack {
				seen.events[i].Outcome = xactlock.Committed
			}
		}
		c.observed(seen, err)
	}
	return l.library.transaction(ctx, p, &lying, fn)
}
