package xactlock

import (
	"database/sql"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// This file writes the messages that end a transaction.
//
// SERIALIZABLE needs more than COMMIT. PostgreSQL frees a transaction's locks
// a moment before it records, for the sake of serializability, that the
// transaction is over (ProcReleaseLocks comes before ReleasePredicateLocks).
// The next holder can begin in between, and pass for concurrent with the one
// before it: three in a row fail with SQLSTATE 40001, though no two of them
// overlapped. So the session takes the locks as well, which it gets at once,
// and frees them after COMMIT.
//
// A COMMIT that fails skips the rest of its message and leaves no transaction
// open, so that a pooler in transaction mode would take the session away with
// the locks on it. Therefore a second message follows in the same write, to be
// executed in any case: it frees the locks unless the first has done so.
//
// A ROLLBACK has the same gap, which only matters after two failures in a row.

// commitMessages returns the message that commits, and the one that follows it
// at SERIALIZABLE.
func (l *Locker) commitMessages(keys []hashkey.Key) (commit, after string) {
	if !l.outlivesCommit() {
		return release + "; commit", ""
	}
	m := locksql.Sized(512)
	m.Statement(release)
	m.Each(locksql.Lock, l.opts.Shared, keys)
	m.Statement("commit")
	m.Each(locksql.Unlock, l.opts.Shared, keys)
	m.Statement("select pg_catalog.set_config('pgadvisory.unlocked', 'true', false)")
	a := locksql.Sized(512)
	for _, key := range keys {
		a.Statement("select case when pg_catalog.starts_with(pg_catalog.current_setting('pgadvisory.unlocked', true), 'true') " +
			"then null else " + locksql.Call(locksql.Unlock, l.opts.Shared, key) + " end")
	}
	a.Statement("select pg_catalog.set_config('pgadvisory.unlocked', 'false', false)")
	return m.String(), a.String()
}

// outlivesCommit reports whether the lock must be held until after COMMIT.
func (l *Locker) outlivesCommit() bool { return l.opts.Isolation == sql.LevelSerializable }
