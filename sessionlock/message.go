package sessionlock

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
)

// The columns of an answer.
const (
	columnSlot = iota
	columnName // of a setting; missing or NULL in a row that shows none
	columnOld
)

// What is in columnSlot, if it is not NULL or the number of the lock that is
// granted.
const (
	refused = -1
	standby = -2
	pooler  = -3
)

// ask returns a select which, if slot is the number of a lock, gives the session
// its settings, and shows what they were, a row for each. The expression is
// evaluated once, even if it calls a lock function: WITH … AS MATERIALIZED says so.
func ask(slot string, settings []setting) string {
	const asked = "with asked as materialized (select slot from (select "
	const one = " as slot offset 0) as one) select "
	if len(settings) == 0 {
		return asked + slot + one + "asked.slot from asked"
	}
	return asked + slot + one + "asked.slot, s.name, pg_catalog.current_setting(s.name, true), " +
		"case when s.name is not null then " + set + " end " +
		"from asked left join " + table(settings) + " on asked.slot operator(pg_catalog.>=) 0 and " + known
}

// obstacles are where a lock would exclude no session, or would stay behind in a
// pooler: the pid that the client was told is then not that of the session. They
// are asked for in the statement that locks, because a pooler may send the next
// one elsewhere, and a standby may be promoted.
func (o *Options) obstacles(pid uint32) string {
	when := "when pg_catalog.pg_is_in_recovery() then " + strconv.Itoa(standby)
	if !o.Pooler {
		when += " when pg_catalog.pg_backend_pid() operator(pg_catalog.<>) " + strconv.FormatUint(uint64(pid), 10) +
			" then " + strconv.Itoa(pooler)
	}
	return when
}

// tryMessage asks for the first free of some locks without waiting, unless there is
// one of the obstacles. If it is refused, nothing has changed on the session.
func (o *Options) tryMessage(keys []hashkey.Key, obstacles string, settings []setting) locksql.Message {
	return locksql.Select(ask("case "+obstacles+" else "+locksql.TakeFirst(o.Shared, keys)+" end", settings))
}

// waitMessage waits for the one-th of some locks, for at most limit, and takes it
// for the session then. If that is not granted, it asks for all. If it is
// refused, nothing has changed on the session.
func (o *Options) waitMessage(keys []hashkey.Key, one int, pid uint32, settings []setting, limit time.Duration) locksql.Message {
	from := " from " + table(settings) + " where " + known
	w := locksql.SessionWait{
		Obstacles: o.obstacles(pid),
		Shared:    o.Shared,
		Keys:      keys,
		One:       one,
		Limit:     limit,
		Before:    "select null, s.name, pg_catalog.current_setting(s.name, true)" + from,
		Settings:  set + from,
	}
	return w.Message()
}

// verdict returns what an answer on s that came without an error says: which lock
// is granted, or refused, and the settings as they were; or why none can be. An
// answer that is not understood ends the session, which may have the lock.
func verdict(s *pgsession.Session, answer pgsession.Answer) (before []setting, slot int, err error) {
	rows := answer.Rows
	slot, err = slotIn(rows)
	switch {
	case err != nil:
		s.Discard()
		return nil, refused, err
	case slot == standby:
		return nil, refused, ErrStandby
	case slot == pooler:
		return nil, refused, ErrPooler
	case slot < 0:
		return nil, refused, nil
	}
	return saved(rows), slot, nil
}

// slotIn returns what is in columnSlot of the last row.
func slotIn(rows [][][]byte) (int, error) {
	if len(rows) == 0 || len(rows[len(rows)-1]) == 0 {
		return refused, errAnswer
	}
	value := rows[len(rows)-1][columnSlot]
	if value == nil {
		return refused, nil
	}
	slot, err := strconv.Atoi(string(value))
	if err != nil {
		return refused, fmt.Errorf("%w: %w", errAnswer, err)
	}
	return slot, nil
}

// besides gives back what the session of a lock may hold besides, which must not
// reach the pool either: a lock taken by hand on Conn, or the same lock once more.
const besides = ", pg_catalog.pg_advisory_unlock_all()"

// unlockMessage gives the lock back, and more if that is [besides], and the settings
// their defaults, and shows what those are.
//
// It is one statement, and the server evaluates its expressions one after the other.
// What it does after the unlock is in the way of the next holder, where both share a
// processor.
func unlockMessage(shared bool, key hashkey.Key, more string, saved []setting) locksql.Message {
	return locksql.UnlockOne(shared, key, more+reset(saved))
}

// unlock gives the lock back, and the settings the values that were saved, which
// takes a second message where they are not the defaults. It reports whether the
// lock was held.
func unlock(ctx context.Context, s *pgsession.Session, shared bool, key hashkey.Key, saved []setting) (held bool, err error) {
	return leave(ctx, s, unlockMessage(shared, key, besides, saved), saved)
}

// unlockLast is unlock for the last lock of this package on a session that keeps what
// else it holds.
func unlockLast(ctx context.Context, s *pgsession.Session, shared bool, key hashkey.Key, saved []setting) (held bool, err error) {
	return leave(ctx, s, unlockMessage(shared, key, "", saved), saved)
}

// leave sends an unlockMessage, and gives the settings the values that were saved.
func leave(ctx context.Context, s *pgsession.Session, m locksql.Message, saved []setting) (held bool, err error) {
	answer, err := s.Open(ctx, leaving, m)
	if err != nil {
		return false, err
	}
	rows := answer.Rows
	if len(rows) != 1 || len(rows[0]) < 1+len(saved) {
		s.Discard()
		return false, errAnswer
	}
	defaults := rows[0][len(rows[0])-len(saved):]
	var others []setting
	for i, setting := range saved {
		if setting.value != string(defaults[i]) {
			others = append(others, setting)
		}
	}
	if len(others) > 0 {
		_, err = s.Send(ctx, leaving, locksql.Select(setAgain(others)))
	}
	return string(rows[0][0]) == "t", err
}

// forsake frees what a message that has failed may have left of keys, or ends the
// session.
func forsake(ctx context.Context, s *pgsession.Session, shared bool, keys ...hashkey.Key) {
	if len(keys) == 0 {
		return
	}
	ctx, cancel := toLeave(ctx)
	defer cancel()
	m := locksql.Forsake(shared, keys...)
	if !s.InTransaction() {
		m = m.WithoutRollback()
	}
	if _, err := s.Send(ctx, leaving, m); err != nil {
		s.Discard()
	}
}

// toLeave returns the ctx of a message that frees locks of a call: the call's own may
// have ended.
func toLeave(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), unlockPatience)
}

// unlockOne gives one lock of several back.
func unlockOne(ctx context.Context, s *pgsession.Session, shared bool, key hashkey.Key) (held bool, err error) {
	answer, err := s.Open(ctx, leaving, locksql.UnlockOne(shared, key, ""))
	return err == nil && yes(answer), err
}

// yes reports whether the first value of an answer is true.
func yes(answer pgsession.Answer) bool { return first(answer) == "t" }

// first returns the first value of an answer, or "".
func first(answer pgsession.Answer) string {
	rows := answer.Rows
	if len(rows) == 0 {
		return ""
	}
	return string(rows[0][0])
}

// saved returns the settings that an answer shows, as they were.
func saved(rows [][][]byte) []setting {
	rows = slices.DeleteFunc(slices.Clone(rows), func(row [][]byte) bool { return len(row) <= columnOld || row[columnName] == nil })
	settings := make([]setting, len(rows))
	for i, row := range rows {
		settings[i] = setting{string(row[columnName]), string(row[columnOld])}
	}
	return settings
}
