package sessionlock

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

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
// answer that is not understood ends the session, which may have the lock.
func verdict(s *pgsession.Session, answer pgsession.Answer) (before []locksql.Setting, slot int, err error) {
	rows := answer.Rows
	slot, err = slotIn(rows)
	switch {
	case err != nil:
		s.Discard()
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
// they are not the defaults. It reports whether the lock was held.
func unlock(ctx context.Context, s *pgsession.Session, shared bool, key hashkey.Key, besides bool, saved []locksql.Setting) (held bool, err error) {
	answer, err := s.Open(ctx, leaving, locksql.UnlockSession(shared, key, besides, saved))
	if err != nil {
		return false, err
	}
	rows := answer.Rows
	if len(rows) != 1 || len(rows[0]) < 1+len(saved) {
		s.Discard()
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
		_, err = s.Send(ctx, leaving, locksql.SetAgain(others))
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

// question returns the ctx of a message on whose answer locks depend. Where there
// is no answer within timeout, the ctx ends, and the session is ended for that. The
// server frees its locks then, so lose is called before: a holder must be told
// before the next one comes. over is for the caller, once, when the message is
// answered or not. It reports whether lose was called.
func question(timeout time.Duration, lose func(loss error)) (ctx context.Context, over func() (silent bool)) {
	ctx, cancel := context.WithCancel(context.Background())
	late := time.AfterFunc(timeout, func() {
		lose(errSilence)
		cancel()
	})
	return ctx, func() bool {
		if late.Stop() {
			cancel()
			return false
		}
		<-ctx.Done() // lose has returned then
		return true
	}
}

// sendHolding sends a message that frees nothing, and is cancelled when ctx ends.
// Where it is not answered then, the session is ended, and lose is called before: see
// question.
func sendHolding(ctx context.Context, s *pgsession.Session, p interrupt.Policy, m locksql.Message, lose func(loss error)) (pgsession.Answer, error) {
	answered, told := make(chan struct{}), make(chan bool, 1)
	stop := context.AfterFunc(ctx, func() {
		silent := !interrupt.ClosedWithin(answered, p.DeadlineDelay/2)
		if silent {
			lose(errSilence)
		}
		told <- silent
	})
	answer, err := s.Send(ctx, p, m)
	if close(answered); !stop() && <-told {
		s.Discard() // the answer may have come just now
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
