package sessionlock

import (
	"slices"
	"strconv"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
)

// The columns of the answer to the statement of ask.
const (
	columnName = iota
	columnOld
	columnSlot
	columnPID
	columnStandby
)

// server is what an answer says of the server: columnPID and columnStandby.
const server = "pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery()"

// ask returns a select which, if slot is not NULL, gives the session its
// settings, and shows what they were, a row for each. The expression is evaluated
// once, even if it calls a lock function: WITH … AS MATERIALIZED says so.
func ask(slot string, settings []setting) string {
	const asked = "with asked as materialized (select slot from (select "
	const one = " as slot offset 0) as one) select "
	if len(settings) == 0 {
		return asked + slot + one + "null, null, asked.slot, " + server + " from asked"
	}
	return asked + slot + one + "s.name, pg_catalog.current_setting(s.name, true), asked.slot, " + server + ", " +
		"case when s.name is not null then " + set + " end " +
		"from asked left join " + table(settings) + " on asked.slot is not null and " + known
}

// mayLock is false where a lock would exclude nobody, or would stay behind in
// a pooler: the pid that the client was told is then not that of the session.
// It is asked in the statement that locks, because a pooler may send the next
// one elsewhere.
func (o *Options) mayLock(pid uint32) string {
	condition := "(not pg_catalog.pg_is_in_recovery()"
	if !o.Pooler {
		condition += " and pg_catalog.pg_backend_pid() operator(pg_catalog.=) " + strconv.FormatUint(uint64(pid), 10)
	}
	return condition + ")"
}

// tryMessage asks for the first free of some locks without waiting. If it is
// refused, nothing has changed on the session.
func (o *Options) tryMessage(keys []hashkey.Key, pid uint32, settings []setting) locksql.Message {
	return locksql.Select(ask("case when "+o.mayLock(pid)+" then "+locksql.TakeFirst(o.Shared, keys)+" end", settings))
}

// waitMessage waits for the one-th of some locks, for at most limit, and takes it
// for the session then. If that is not granted, it asks for all. If it is
// refused, nothing has changed on the session.
func (o *Options) waitMessage(keys []hashkey.Key, one int, pid uint32, settings []setting, limit time.Duration) locksql.Message {
	from := " from " + table(settings) + " where " + known
	w := locksql.SessionWait{
		Condition: o.mayLock(pid),
		Shared:    o.Shared,
		Keys:      keys,
		One:       one,
		Limit:     limit,
		Before:    "select s.name, pg_catalog.current_setting(s.name, true)" + from,
		Settings:  set + from,
		After:     "select null, null, " + locksql.Slot + ", " + server,
	}
	return w.Message()
}

// verdict returns what an answer that came without an error says: which lock is
// granted, or -1, and the settings as they were; or why none can be.
func (o *Options) verdict(pid uint32, answer pgsession.Answer) (before []setting, slot int, err error) {
	rows := answer.Rows()
	last := rows[len(rows)-1]
	if value := string(last[columnSlot]); value != "" && value != "-1" {
		slot, err = strconv.Atoi(value)
		return saved(rows), slot, err
	}
	switch {
	case string(last[columnStandby]) == "t":
		return nil, -1, ErrStandby
	case !o.Pooler && string(last[columnPID]) != strconv.FormatUint(uint64(pid), 10):
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

// saved returns the settings that an answer shows, as they were.
func saved(rows [][][]byte) []setting {
	rows = slices.DeleteFunc(slices.Clone(rows), func(row [][]byte) bool { return row[columnName] == nil })
	settings := make([]setting, len(rows))
	for i, row := range rows {
		settings[i] = setting{string(row[columnName]), string(row[columnOld])}
	}
	return settings
}
