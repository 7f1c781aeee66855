package sessionlock

import (
	"strconv"
	"strings"
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
	_ // what set_config returns
	columnSlot
)

// ask returns a select which, if slot is not NULL, gives the session its
// settings, and shows what they were, a row for each. The expression is evaluated
// once, even if it calls a lock function: WITH … AS MATERIALIZED says so.
func ask(slot string, settings []setting) string {
	const asked = "with asked as materialized (select slot, slot is not null as granted from (select "
	const columns = " as slot offset 0) as one) select asked.granted, pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery(), "
	if len(settings) == 0 {
		return asked + slot + columns + "null, null, null, asked.slot from asked"
	}
	return asked + slot + columns + "s.name, pg_catalog.current_setting(s.name, true), " +
		"case when s.name is not null then pg_catalog.set_config(s.name, s.value, false) end, asked.slot " +
		"from asked left join " + table(settings) + " on asked.granted and " + known
}

// mayLock is false where a lock would exclude nobody, or would stay behind in
// a pooler: the pid that the client was told is then not that of the session.
// It is asked in the statement that locks, because a pooler may send the next
// one elsewhere.
func (l *Locker) mayLock(pid uint32) string {
	condition := "(not pg_catalog.pg_is_in_recovery()"
	if !l.opts.Pooler {
		condition += " and pg_catalog.pg_backend_pid() operator(pg_catalog.=) " + strconv.FormatUint(uint64(pid), 10)
	}
	return condition + ")"
}

// take returns an expression that takes the first free of some locks for the
// session, and is its number, or NULL where there is none.
func take(shared bool, keys []hashkey.Key) string {
	var b strings.Builder
	b.WriteString("case ")
	for i, key := range keys {
		b.WriteString("when " + locksql.Call(locksql.TryLock, shared, key) + " then " + strconv.Itoa(i) + " ")
	}
	b.WriteString("end")
	return b.String()
}

// tryMessage asks for the first free of some locks without waiting. If it is
// refused, nothing has changed on the session.
func (l *Locker) tryMessage(keys []hashkey.Key, pid uint32, settings []setting) locksql.Message {
	return locksql.Select(ask("case when "+l.mayLock(pid)+" then "+take(l.opts.Shared, keys)+" end", settings))
}

// waitMessage waits for the one-th of some locks, for at most limit, and takes it
// for the session then. If that is not granted, it asks for all. If it is
// refused, nothing has changed on the session.
func (l *Locker) waitMessage(keys []hashkey.Key, one int, pid uint32, settings []setting, limit time.Duration) locksql.Message {
	waited := "case when " + locksql.Call(locksql.TryLock, l.opts.Shared, keys[one]) + " then " + strconv.Itoa(one) + " end"
	rest := "null"
	if len(keys) > 1 {
		rest = take(l.opts.Shared, keys)
	}
	slot := "case when not " + l.mayLock(pid) + " then null when " + locksql.Waited + " then " + waited + " else " + rest + " end"
	return locksql.WaitBefore(l.mayLock(pid), l.opts.Shared, keys[one], limit, ask(slot, settings))
}

// verdict returns what an answer that came without an error says: which lock is
// granted, or -1, and the settings as they were; or why none can be.
func (l *Locker) verdict(pid uint32, answer pgsession.Answer) (before []setting, slot int, err error) {
	rows := answer.Rows()
	switch first := rows[0]; {
	case string(first[columnGranted]) == "t":
		slot, err = strconv.Atoi(string(first[columnSlot]))
		return saved(rows), slot, err
	case string(first[columnStandby]) == "t":
		return nil, -1, ErrStandby
	case !l.opts.Pooler && string(first[columnPID]) != strconv.FormatUint(uint64(pid), 10):
		return nil, -1, ErrPooler
	}
	return nil, -1, nil
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
