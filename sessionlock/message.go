package sessionlock

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
)

// sessionLock is how s is asked for one of keys, and gets settings with it.
func (o *Options) sessionLock(s *pgsession.Session, keys []hashkey.Key, settings []locksql.Setting) locksql.SessionLock {
	return locksql.SessionLock{Shared: o.Shared, Keys: keys, PID: s.PG().PID(), Pooled: o.Pooler, Settings: settings}
}

// verdict returns what an answer on s that came without an error says: which lock
// is granted, or refused, and the settings as they were; or why none can be. An
// answer that is not understood ends the session, which may have the lock. lose is for
// the other locks of the session: see end.
func verdict(s *pgsession.Session, answer pgsession.Answer, lose loser) (before []locksql.Setting, slot int, err error) {
	rows := answer.Rows
	slot, err = slotIn(rows)
	switch {
	case err != nil:
		end(s, err, lose)
		return nil, locksql.SessionRefused, err
	case slot == locksql.SessionStandby:
		return nil, locksql.SessionRefused, ErrStandby
	case slot == locksql.SessionPooler:
		return nil, locksql.SessionRefused, ErrPooler
	case slot < 0:
		return nil, locksql.SessionRefused, nil
	}
	return saved(rows), slot, nil
}

// slotIn returns what is in locksql.SlotColumn of the last row.
func slotIn(rows [][][]byte) (int, error) {
	if len(rows) == 0 || len(rows[len(rows)-1]) == 0 {
		return locksql.SessionRefused, errAnswer
	}
	value := rows[len(rows)-1][locksql.SlotColumn]
	if value == nil {
		return locksql.SessionRefused, nil
	}
	slot, err := strconv.Atoi(string(value))
	if err != nil {
		return locksql.SessionRefused, fmt.Errorf("%w: %w", errAnswer, err)
	}
	return slot, nil
}

// unlock gives the lock back, with besides also what else the session may hold, and
// gives the settings the values that were saved, which takes a second message where
// they are not the defaults. It reports whether the lock was held. lose is for the other
// locks of the session: see end.
func unlock(s *pgsession.Session, shared bool, key hashkey.Key, besides bool, saved []locksql.Setting, lose loser) (held bool, err error) {
	answer, err := leave(s, locksql.UnlockSession(shared, key, besides, saved), lose)
	if err != nil {
		return false, err
	}
	rows := answer.Rows
	if len(rows) != 1 || len(rows[0]) < 1+len(saved) {
		end(s, errAnswer, lose)
		return false, errAnswer
	}
	defaults := rows[0][len(rows[0])-len(saved):]
	var others []locksql.Setting
	for i, setting := range saved {
		if setting.Value != string(defaults[i]) {
			others = append(others, setting)
		}
	}
	if len(others) > 0 {
		_, err = leave(s, locksql.SetAgain(others), lose)
	}
	return string(rows[0][0]) == "t", err
}

// forsake frees what a message that has failed may have left of keys, or ends the
// session. lose is for the other locks of the session: see end.
func forsake(s *pgsession.Session, shared bool, keys []hashkey.Key, lose loser) {
	if len(keys) == 0 {
		return
	}
	m := locksql.Forsake(shared, keys...)
	if !s.InTransaction() {
		m = m.WithoutRollback()
	}
	if _, err := leave(s, m, lose); err != nil {
		end(s, err, lose)
	}
}

// leave sends a message that frees locks of a call, whose own ctx may have ended.
func leave(s *pgsession.Session, m locksql.Message, lose loser) (pgsession.Answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), unlockPatience)
	defer cancel()
	return send(ctx, s, leaving, m, lose)
}

// loser tells locks of a session that they are lost.
type loser func(loss error)

// end ends a session that may have other locks. The server frees them then, so lose is
// called before: a holder must be told before the next one comes.
func end(s *pgsession.Session, loss error, lose loser) {
	lose(loss)
	s.Discard()
}

// telling returns p for a session that has locks: where the server does not answer, to
// the message or to a cancel request, the session is ended for that, and lose is called
// before. It is told then, and the session is to be discarded: the answer may have come
// just after that.
func telling(p interrupt.Policy, lose loser) (_ interrupt.Policy, told *bool) {
	told = new(bool)
	p.BeforeCut = func() {
		*told = true
		lose(errSilence)
	}
	return p, told
}

// send sends m on a session that has locks.
func send(ctx context.Context, s *pgsession.Session, p interrupt.Policy, m locksql.Message, lose loser) (pgsession.Answer, error) {
	p, told := telling(p, lose)
	answer, err := s.Send(ctx, p, m)
	if *told && !(err == nil && s.Closed()) { // or else it is answered, and a cancel request is not
		s.Discard()
		return answer, errSilence
	}
	return answer, err
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
func saved(rows [][][]byte) []locksql.Setting {
	rows = slices.DeleteFunc(slices.Clone(rows), func(row [][]byte) bool { return len(row) <= locksql.OldColumn || row[locksql.NameColumn] == nil })
	settings := make([]locksql.Setting, len(rows))
	for i, row := range rows {
		settings[i] = locksql.Setting{Name: string(row[locksql.NameColumn]), Value: string(row[locksql.OldColumn])}
	}
	return settings
}
