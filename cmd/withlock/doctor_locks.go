package main

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// A step is something that one of the clients sends.
type step struct {
	by    *probe
	query string
	want  string // the answer; "" if any will do
	wrong string // if it is another
}

// walk goes the steps, each client in a transaction, and rolls both back. It
// returns what is wrong, or "".
func (d *doctor) walk(ctx context.Context, steps ...step) (wrong string, err error) {
	defer func() {
		for _, p := range []*probe{d.one, d.two} {
			if rollback := p.rollback(ctx); err == nil {
				err = rollback
			}
		}
	}()
	for _, p := range []*probe{d.one, d.two} {
		if err := d.begin(ctx, p); err != nil {
			return "", err
		}
	}
	for _, s := range steps {
		got, err := s.by.value(ctx, s.query)
		if words, err := refusal(err); words != "" || err != nil {
			return words, err
		}
		if s.want != "" && got != s.want {
			return s.wrong, nil
		}
	}
	return "", nil
}

// try returns the select of a try for key.
func try(f locksql.Func, shared bool, key hashkey.Key) string {
	return "select " + locksql.Call(f, shared, key)
}

// untriable reports whether the locks need not be tried, and says so.
func (d *doctor) untriable(subject string) bool {
	switch {
	case d.standby:
		d.line(untried, subject, "not tried on a standby")
	case d.between == poolsStatements:
		d.line(untried, subject, "not tried through a pooler that pools statements")
	default:
		return false
	}
	return true
}

const bothHave = "two connections were granted the same lock"

// xactLockIs tries whether the locks of transactions exclude each other.
func (d *doctor) xactLockIs(ctx context.Context) error {
	const subject = "transaction lock"
	if d.untriable(subject) {
		return nil
	}
	const f = locksql.TryXactLock
	pair, same := hashkey.Pair(int32(d.key.Int64()), 7), hashkey.Int64(hashkey.Pair(int32(d.key.Int64()), 7).Int64())
	wrong, err := d.walk(ctx,
		step{d.one, try(f, false, d.key), "t", "a free lock was refused"},
		step{d.two, try(f, false, d.key), "f", bothHave},
		step{d.two, try(f, true, d.key), "f", "a reader and a writer were granted the same lock"},
		step{d.one, try(f, false, pair), "t", "a free lock of two integers was refused"},
		step{d.two, try(f, false, pair), "f", bothHave + ", of two integers"},
		step{d.two, try(f, false, same), "t", "a lock of two integers excludes one of a bigint"},
		step{d.one, "rollback", "", ""},
		step{d.two, try(f, false, d.key), "t", "ROLLBACK does not free the lock"},
	)
	if err != nil {
		return err
	}
	if wrong == "" {
		wrong, err = d.walk(ctx,
			step{d.one, try(f, true, d.key), "t", "COMMIT or ROLLBACK does not free the lock"},
			step{d.two, try(f, true, d.key), "t", "two readers exclude each other"},
			step{d.two, try(f, false, d.key), "f", "a reader and a writer were granted the same lock"},
			step{d.one, "commit", "", ""},
			step{d.two, try(f, false, d.key), "t", "COMMIT does not free the lock"},
		)
	}
	return d.conclude(subject, wrong, err, "two connections exclude each other, readers share; COMMIT and ROLLBACK free it")
}

// conclude says what a trial has found: what is wrong, or that all is well.
func (d *doctor) conclude(subject, wrong string, err error, well string) error {
	switch {
	case err != nil:
		return err
	case wrong != "":
		d.breaks(subject, wrong)
	default:
		d.line(good, subject, well)
	}
	return nil
}

// savepointIs tries what ROLLBACK TO SAVEPOINT does to locks.
func (d *doctor) savepointIs(ctx context.Context) error {
	const subject = "savepoint"
	if d.untriable(subject) {
		return nil
	}
	const f, set, back = locksql.TryXactLock, "savepoint doctor", "rollback to savepoint doctor"
	before, after := d.key, d.key.Slot(1)
	wrong, err := d.walk(ctx,
		step{d.one, try(f, false, before), "t", "a free lock was refused"},
		step{d.one, set, "", ""},
		step{d.one, try(f, false, after), "t", "a free lock was refused"},
		step{d.one, back, "", ""},
		step{d.two, try(f, false, before), "f", "ROLLBACK TO frees what was locked before the savepoint, or nothing was locked"},
		step{d.two, try(f, false, after), "t", "ROLLBACK TO does not free what was locked after the savepoint"},
	)
	return d.conclude(subject, wrong, err, "ROLLBACK TO frees what was locked after the savepoint, and nothing else")
}

// sessionLockIs tries whether the locks of sessions exclude each other.
func (d *doctor) sessionLockIs(ctx context.Context) error {
	const subject = "session lock"
	if d.untriable(subject) {
		return nil
	}
	wrong, err := d.trySessionLock(ctx)
	words, err := refusal(err)
	wrong = cmp.Or(words, wrong)
	switch {
	case err != nil:
		return err
	case wrong != "":
		d.breaksSessions(subject, wrong)
	case d.between == poolsTransactions:
		d.breaksSessions(subject, "excludes while a transaction lasts; after it the session is another client's")
	case d.inside():
		d.line(good, subject, "two connections exclude each other while a transaction lasts; more was not tried without --pooler")
	default:
		d.line(good, subject, "two connections exclude each other; ROLLBACK keeps it, and unlocking frees it")
	}
	return nil
}

// inside reports whether a lock of a session may be held inside a transaction
// only: a pooler could leave it in its pool, even one that has kept the session
// so far.
func (d *doctor) inside() bool {
	return d.between == poolsTransactions || d.between == poolsSessions && !d.pooler
}

func (d *doctor) trySessionLock(ctx context.Context) (wrong string, err error) {
	inside := d.inside()
	if inside {
		if err := d.begin(ctx, d.one); err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, d.one.rollback(ctx)) }()
	}
	granted, err := d.one.isTrue(ctx, try(locksql.TryLock, false, d.key))
	if err != nil || !granted {
		return "a free lock was refused", err
	}
	unlock := try(locksql.Unlock, false, d.key)
	also, err := d.two.isTrue(ctx, "select case when "+locksql.Call(locksql.TryLock, false, d.key)+
		" then "+locksql.Call(locksql.Unlock, false, d.key)+" end is not null")
	if err != nil {
		return "", errors.Join(err, d.one.tell(ctx, unlock))
	}
	if !also && !inside {
		for _, query := range []string{"begin", "rollback"} {
			if err := d.one.tell(ctx, query); err != nil {
				return "", err
			}
		}
	}
	freed, err := d.one.isTrue(ctx, unlock)
	switch {
	case err != nil:
		return "", err
	case also:
		return bothHave, nil
	case !freed:
		return "the lock was gone before it was given back", nil
	}
	return "", nil
}

// tryXact returns why xactlock does not work here.
func (d *doctor) tryXact(ctx context.Context) error {
	ctx, cancel := toAnswer(ctx)
	defer cancel()
	return xactlock.New(d.db).TryWithTx(ctx, d.key, func(context.Context, *sql.Tx) error { return nil })
}

// trySession returns why sessionlock does not work here.
func (d *doctor) trySession(ctx context.Context) error {
	ctx, cancel := toAnswer(ctx)
	defer cancel()
	lock, err := sessionlock.New(d.db).With(sessionlock.Options{Pooler: d.pooler}).TryLock(ctx, d.key)
	if err != nil {
		return err
	}
	return lock.Unlock()
}

// rightsAre tries what the packages take for granted, as PUBLIC has it, and says so
// only where it is missing.
func (d *doctor) rightsAre(ctx context.Context) error {
	if d.xactErr != nil {
		return nil
	}
	for _, right := range []struct{ subject, query, found, follows string }{
		{"PL/pgSQL", "do 'begin end'", "is missing: ",
			"a wait for a lock takes it: create extension plpgsql, or grant usage on language plpgsql"},
		{"pg_locks", "select from pg_catalog.pg_locks limit 0", "cannot be read: ",
			"withlock --list and inspect take it, and so do slots and the plain path at REPEATABLE READ and SERIALIZABLE"},
	} {
		words, err := refusal(d.one.tell(ctx, right.query))
		if err != nil {
			return err
		}
		if words != "" {
			d.breaks(right.subject, right.found+words, right.follows)
		}
	}
	d.blind = slices.Contains(d.broken, "pg_locks")
	return nil
}

// freshReadsAre tries whether fn, at each level, sees what the holder before it
// has committed. Each holder uses a transaction id, and fn looks whether its
// snapshot counts that transaction as committed: no table is needed.
func (d *doctor) freshReadsAre(ctx context.Context) error {
	const subject = "fresh reads"
	if d.untriable(subject) {
		return nil
	}
	if d.xactErr != nil {
		d.line(untried, subject, "not tried, as xactlock refuses the server")
		return nil
	}
	var stale []string
	for _, level := range []sql.IsolationLevel{sql.LevelReadCommitted, sql.LevelRepeatableRead, sql.LevelSerializable} {
		fresh, err := d.readsFresh(ctx, level)
		words, err := refusal(err)
		switch {
		case err != nil:
			return err
		case words != "":
			d.breaks(subject, fmt.Sprintf("a wait for the lock, or a fencing token (Token), fails at %v: %s", level, words))
			return nil
		case !fresh:
			stale = append(stale, level.String())
		}
	}
	if len(stale) > 0 {
		d.breaks(subject, "fn does not see what the last holder committed, at "+strings.Join(stale, " and "))
		return nil
	}
	d.line(good, subject, "fn sees what the last holder committed, at all levels")
	return nil
}

func (d *doctor) readsFresh(ctx context.Context, level sql.IsolationLevel) (fresh bool, err error) {
	defer func() { err = errors.Join(err, d.one.rollback(ctx)) }()
	if err := d.begin(ctx, d.one); err != nil {
		return false, err
	}
	if _, err := d.one.isTrue(ctx, try(locksql.TryXactLock, false, d.key)); err != nil {
		return false, err
	}
	id, err := d.one.value(ctx, "select pg_catalog.pg_current_xact_id()")
	if err != nil {
		return false, err
	}
	d.ids++
	o := xactlock.Options{Isolation: level, Wait: answerTimeout}
	ended, over := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(over)
		ended <- xactlock.New(d.db).With(o).WithTx(ctx, d.key, func(ctx context.Context, tx *sql.Tx) error {
			return tx.QueryRowContext(ctx, "select pg_catalog.pg_visible_in_snapshot('"+id+"', pg_catalog.pg_current_snapshot())").Scan(&fresh)
		})
	}()
	if err := d.untilWaited(ctx, over); err != nil {
		return false, errors.Join(err, d.one.rollback(ctx), <-ended)
	}
	if err := d.one.tell(ctx, "commit"); err != nil {
		return false, errors.Join(err, <-ended)
	}
	return fresh, <-ended
}

// untilWaited returns when pg_locks shows a waiter, when the waiter's call is over, or
// after a while: not all servers show one.
func (d *doctor) untilWaited(ctx context.Context, over <-chan struct{}) error {
	number := uint64(d.key.Int64())
	waiter := fmt.Sprintf("select true from pg_catalog.pg_locks where not granted and locktype"+equal+"'advisory' and objsubid"+equal+"1 "+
		"and classid"+equal+"'%d'::pg_catalog.oid and objid"+equal+"'%d'::pg_catalog.oid", number>>32, number&(1<<32-1))
	if d.blind {
		interrupt.ClosedWithin(over, answerTimeout/40)
		return nil
	}
	for end := time.Now().Add(answerTimeout / 2); time.Now().Before(end); {
		if waits, err := d.one.isTrue(ctx, waiter); err != nil || waits {
			return err
		}
		if interrupt.ClosedWithin(over, 2*time.Millisecond) {
			return nil
		}
	}
	d.blind = true
	return nil
}

// pgLocksAre tells what the role may see of other roles' locks.
func (d *doctor) pgLocksAre(ctx context.Context) error {
	const subject = "pg_locks"
	if d.xactErr != nil {
		d.line(untried, subject, "not tried, as xactlock refuses the server")
		return nil
	}
	if slices.Contains(d.broken, subject) {
		return nil
	}
	all, err := d.one.isTrue(ctx, "select pg_catalog.pg_has_role('pg_read_all_stats', 'usage')")
	words, err := refusal(err)
	switch {
	case err != nil:
		return err
	case d.blind:
		d.line(notable, subject, "does not show the locks of other sessions", "withlock --list and inspect find nothing; the locks work")
	case words != "" || !all:
		d.line(notable, subject, "shows the locks of all, but of other roles' sessions neither address nor time",
			"withlock --list and the message of a conflict say less; to change that, grant pg_read_all_stats")
	default:
		d.line(good, subject, "shows the locks of all, and whose they are")
	}
	return nil
}
