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
	pretendsSQL = "pg_catalog.current_setting('crdb_version', true) is not null"
	standbySQL  = "pg_catalog.pg_is_in_recovery()"
	staleSQL    = "not pg_catalog.starts_with(pg_catalog.current_setting('transaction_isolation'), 'read ')"

	whenNoServer = "when " + pretendsSQL + " then 4 when " + standbySQL + " then 3 "
	whenStale    = "when " + staleSQL + " then 2 "
)

// obstacles returns the verdicts that come before any lock, and a condition
// that is true where none of them applies. The isolation level is one of them
// where the transaction is not WithTx's own.
func obstacles(own bool) (whens, none string) {
	if own {
		return whenNoServer, "not (" + pretendsSQL + " or " + standbySQL + ")"
	}
	return whenNoServer + whenStale, "not (" + pretendsSQL + " or " + standbySQL + " or " + staleSQL + ")"
}

// A verdict is what a message that locks ends in.
type verdict struct {
	whens     string // the verdicts that come first
	condition string // granted, if it is true
	savepoint bool   // follow it with the savepoint of open.go
}

// end returns m with the verdict as its end. Where the savepoint comes between
// the verdict and the end of the message, a setting keeps the verdict.
func (v verdict) end(m locksql.Message) string {
	number := "case " + v.whens + "when " + v.condition + " then 1 else 0 end"
	if v.savepoint {
		m.Statement("select pg_catalog.set_config('pgadvisory.verdict', (" + number + ")::pg_catalog.text, true)")
		m.Statement(savepoint)
		number = "pg_catalog.current_setting('pgadvisory.verdict')::integer"
	}
	m.Statement("select pg_catalog.generate_series(1, " + number + ")")
	return m.String()
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

// tryIn returns a message that asks for keys in an open transaction, without
// waiting: all or none of them. In WithTx's own, the savepoint follows.
func (l *Locker) tryIn(keys []hashkey.Key, own bool) string {
	var m locksql.Message
	whens, noObstacle := obstacles(own)
	v := verdict{whens, locksql.All(locksql.TryXactLock, l.opts.Shared, keys), own}
	if len(keys) > 1 {
		// Some may be granted before one is refused. What a block with an
		// exception clause has locked is freed when it is left by one, as by
		// ROLLBACK TO a savepoint, but in the same message.
		m.Statement("select pg_catalog.set_config('pgadvisory.all', 'true', true)")
		m.Statement("do $pgadvisory$ begin " +
			"if " + noObstacle + " and not (" + v.condition + ") then raise sqlstate 'PGADV'; end if; " +
			"exception when sqlstate 'PGADV' then " +
			"perform pg_catalog.set_config('pgadvisory.all', 'false', true); " +
			"end $pgadvisory$")
		v.condition = "pg_catalog.current_setting('pgadvisory.all')::boolean"
	}
	return v.end(m)
}

// waitIn returns a message that waits for keys in an open transaction, for at
// most limit where that is not 0. In WithTx's own, the savepoint follows.
func (l *Locker) waitIn(keys []hashkey.Key, limit time.Duration, own bool) string {
	whens, noObstacle := obstacles(own)
	m := locksql.Sized(2048)
	m.SetAside(limit)
	for _, key := range keys {
		m.Statement("select " + locksql.Call(locksql.XactLock, l.opts.Shared, key) + " where " + noObstacle)
	}
	m.PutBack()
	return verdict{whens, "true", own}.end(m)
}
