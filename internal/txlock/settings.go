package txlock

import (
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/bounds"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// Settings is what the options of a package say about a call's transaction and
// its locks. Each field is the one of xactlock.Options that has its name.
type Settings struct {
	Shared         bool
	Wait, Poll     time.Duration
	Isolation      sql.IsolationLevel
	ReadOnly       bool
	MaxHold, Grace time.Duration
	MaxWaiters     int
}

// Validate returns what is wrong with the settings, or nil. pkg is the prefix of
// the message.
func (s *Settings) Validate(pkg string) error {
	times := bounds.Times{{"Wait", s.Wait}, {"Poll", s.Poll}, {"MaxHold", s.MaxHold}, {"Grace", s.Grace}}
	if err := times.Check(pkg); err != nil {
		return err
	}
	if s.MaxWaiters < 0 {
		return fmt.Errorf("%s: Options.MaxWaiters is negative: %d", pkg, s.MaxWaiters)
	}
	if s.level() == "" {
		return fmt.Errorf("%s: Options.Isolation: PostgreSQL has no isolation level %v", pkg, s.Isolation)
	}
	return nil
}

// Apply has the call locked as s says. try asks for the locks and does not wait.
func (c *Call) Apply(s *Settings, try bool) {
	c.Shared, c.Try = s.Shared, try
	c.Wait, c.Poll, c.MaxWaiters = s.Wait, s.Poll, s.MaxWaiters
	c.MaxHold, c.Longest = s.MaxHold, bounds.Longest(s.MaxHold, s.Grace)
}

// Transaction returns the transaction of a call for keys.
func (s *Settings) Transaction(keys []hashkey.Key) locksql.Transaction {
	return locksql.Transaction{Keys: keys, Shared: s.Shared, Level: s.level(), ReadOnly: s.ReadOnly, MaxHold: s.atServer()}
}

// OneMessage reports whether an Exec can be one message.
func (s *Settings) OneMessage() bool {
	oneSnapshot := s.Isolation == sql.LevelRepeatableRead || s.Isolation == sql.LevelSerializable
	return !oneSnapshot && s.Poll == 0 && s.MaxHold == 0
}

// atServer is how long a holder may be in the way, as the server is told, or 0 for as
// long as the role's own limits allow. The end comes a little later there, for a
// process that is stopped: a process that ends the session knows that it did
// before the next holder can tell it.
func (s *Settings) atServer() time.Duration {
	const later = 100 * time.Millisecond
	if s.MaxHold == 0 {
		return 0
	}
	return bounds.Sum(bounds.Longest(s.MaxHold, s.Grace), later)
}

// level returns the isolation level in SQL. It is always named in BEGIN: a
// server's default_transaction_isolation would bring stale reads back.
func (s *Settings) level() string {
	switch s.Isolation {
	case sql.LevelDefault, sql.LevelReadCommitted:
		return locksql.ReadCommitted
	case sql.LevelReadUncommitted:
		return locksql.ReadUncommitted
	case sql.LevelRepeatableRead:
		return locksql.RepeatableRead
	case sql.LevelSerializable:
		return locksql.Serializable
	}
	return ""
}

// Ordered returns keys sorted and without duplicates. It does not return nil.
func Ordered(keys []hashkey.Key) []hashkey.Key {
	keys = slices.SortedFunc(slices.Values(keys), hashkey.Compare)
	if keys == nil {
		return []hashkey.Key{}
	}
	return slices.CompactFunc(keys, func(a, b hashkey.Key) bool { return hashkey.Compare(a, b) == 0 })
}
