package xactlock

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// All that a driver tells of a message without parameters is how many rows its
// last statement had. So where the driver connection is not in our hands, a
// message that locks ends in a select with as many rows as its verdict says.
const (
	refused = iota
	granted
	stale    // nothing was locked
	standby  // nothing was locked
	pretence // nothing was locked
)

const (
	whenPretends = "when pg_catalog.current_setting('crdb_version', true) is not null then 4 "
	whenStandby  = "when pg_catalog.pg_is_in_recovery() then 3 "
	isFresh      = "pg_catalog.starts_with(pg_catalog.current_setting('transaction_isolation'), 'read ')"
	whenStale    = "when not " + isFresh + " then 2 "

	// mayLock is false wherever one of the verdicts above applies.
	mayLock = "(pg_catalog.current_setting('crdb_version', true) is null and not pg_catalog.pg_is_in_recovery() and " + isFresh + ")"
)

// verdict returns a select of as many rows as the verdict says: granted if
// condition is true, unless one of whens applies.
func verdict(whens, condition string) string {
	return "select pg_catalog.generate_series(1, case " + whens + "when " + condition + " then 1 else 0 end)"
}

// execer is what a verdict is asked on.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// askVerdict sends message and reports whether the lock is granted.
func askVerdict(ctx context.Context, on execer, message string) (bool, error) {
	result, err := on.ExecContext(ctx, message)
	if err != nil {
		return false, err
	}
	rows, err := result.RowsAffected()
	if err != nil {
		return false, err
	}
	switch rows {
	case refused:
		return false, nil
	case granted:
		return true, nil
	case stale:
		return false, ErrStaleSnapshot
	case standby:
		return false, ErrStandby
	case pretence:
		return false, ErrUnsupportedServer
	}
	return false, fmt.Errorf("xactlock: the driver reports %d rows for a select of at most %d", rows, pretence)
}

// tryVerdict asks for keys in an open transaction, without waiting: all or
// none of them.
func (l *Locker) tryVerdict(keys []hashkey.Key) string {
	const whens = whenPretends + whenStandby + whenStale
	all := locksql.All(locksql.TryXactLock, l.opts.Shared, keys)
	if len(keys) == 1 {
		return verdict(whens, all)
	}
	// Of several, some may be granted before one is refused. What a block with
	// an exception clause has locked is freed when it is left by one, as by
	// ROLLBACK TO a savepoint, but in the same message.
	var m locksql.Message
	m.Statement("select pg_catalog.set_config('pgadvisory.all', 'true', true)")
	m.Statement("do $pgadvisory$ begin " +
		"if " + mayLock + " and not (" + all + ") then raise sqlstate 'PGADV'; end if; " +
		"exception when sqlstate 'PGADV' then " +
		"perform pg_catalog.set_config('pgadvisory.all', 'false', true); " +
		"end $pgadvisory$")
	m.Statement(verdict(whens, "pg_catalog.current_setting('pgadvisory.all')::boolean"))
	return m.String()
}

// waitVerdict waits for keys in an open transaction, for at most limit where
// that is not 0.
func (l *Locker) waitVerdict(keys []hashkey.Key, limit time.Duration) string {
	m := locksql.Sized(2048)
	m.SetAside(limit)
	for _, key := range keys {
		m.Statement("select " + locksql.Call(locksql.XactLock, l.opts.Shared, key) + " where " + mayLock)
	}
	m.PutBack()
	m.Statement(verdict(whenPretends+whenStandby+whenStale, "true"))
	return m.String()
}
