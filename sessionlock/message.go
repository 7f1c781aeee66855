package sessionlock

import (
	"strconv"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
)

// The columns of the answer to the statement of ask.
const (
	columnGranted = iota
	columnPID
	columnStandby
	columnName
	columnOld
)

// ask returns a select which, if condition is true, gives the session its
// settings, and shows what they were, a row for each. The condition is
// evaluated once, even if it calls a lock function: WITH … AS MATERIALIZED
// says so.
func ask(condition string, settings []setting) string {
	return "with asked as materialized (select " + condition + " as granted) " +
		"select asked.granted, pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery(), " +
		"s.name, pg_catalog.current_setting(s.name, true), " +
		"case when s.name is not null then pg_catalog.set_config(s.name, s.value, false) end " +
		"from asked left join " + table(settings) + " on asked.granted and " + known
}

// mayLock is false where a lock would exclude nobody, or would stay behind in
// a pooler: the pid that the client was told is then not that of the session.
// It is asked in the statement that locks, because a pooler may send the next
// one elsewhere.
func (l *Locker) mayLock(pid uint32) string {
	condition := "not pg_catalog.pg_is_in_recovery()"
	if !l.opts.Pooler {
		condition += " and pg_catalog.pg_backend_pid() operator(pg_catalog.=) " + strconv.FormatUint(uint64(pid), 10)
	}
	return condition
}

// tryMessage asks for the lock without waiting. If it is refused, nothing has
// changed on the session.
func (l *Locker) tryMessage(key hashkey.Key, pid uint32, settings []setting) locksql.Message {
	return locksql.Select(ask("case when "+l.mayLock(pid)+" then "+locksql.Call(locksql.TryLock, l.opts.Shared, key)+" end", settings))
}

// waitMessage waits for the lock, for at most limit, and takes it for the
// session then. If it is refused, nothing has changed on the session.
func (l *Locker) waitMessage(key hashkey.Key, pid uint32, settings []setting, limit time.Duration) locksql.Message {
	condition := "case when " + locksql.Waited + " and " + l.mayLock(pid) + " then " + locksql.Call(locksql.TryLock, l.opts.Shared, key) + " end"
	return locksql.WaitBefore(l.mayLock(pid), l.opts.Shared, key, limit, ask(condition, settings))
}

// verdict returns what an answer that came without an error says: whether the
// lock is granted, and the settings as they were, or why it cannot be.
func (l *Locker) verdict(pid uint32, answer pgsession.Answer) (before []setting, granted bool, err error) {
	rows := answer.Rows()
	switch first := rows[0]; {
	case string(first[columnGranted]) == "t":
		return saved(rows), true, nil
	case string(first[columnStandby]) == "t":
		return nil, false, ErrStandby
	case !l.opts.Pooler && string(first[columnPID]) != strconv.FormatUint(uint64(pid), 10):
		return nil, false, ErrPooler
	}
	return nil, false, nil
}

// unlockMessage gives the lock back and puts saved settings back. What the
// session may hold besides, a lock taken by hand on Conn or the same lock once
// more, must not reach the pool either.
func unlockMessage(shared bool, key hashkey.Key, saved []setting) locksql.Message {
	m := locksql.Select("select " + locksql.Call(locksql.Unlock, shared, key)).
		Select("select pg_catalog.pg_advisory_unlock_all()")
	if len(saved) > 0 {
		m = m.Select(putBack(saved))
	}
	return m
}

// yes reports whether the first value of an answer is true.
func yes(answer pgsession.Answer) bool { return first(answer) == "t" }

// first returns the first value of an answer, or "".
func first(answer pgsession.Answer) string {
	rows := answer.Rows()
	if len(rows) == 0 {
		return ""
	}
	return string(rows[0][0])
}
