package inspect

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// Queryer is a *sql.DB, *sql.Conn or *sql.Tx, or what wraps one.
type Queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// Locks returns every advisory lock of the database that db is connected to,
// held or waited for. The same key in another database of the server is another
// lock.
//
// They come in the order of [hashkey.Compare], and the locks of one key in the
// order of [Of]. Where there are none the result is nil. An error is the
// driver's, wrapped, and comes without any Lock.
func Locks(ctx context.Context, db Queryer) ([]Lock, error) {
	locks, err := read(ctx, db, selectLocks)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(locks, byKey)
	return locks, nil
}

// Of returns the holders of any of keys, and the waiters, in the database that db is
// connected to. Holders come first, then waiters in the order of their arrival.
// That is the order in which the server serves them, unless it lets one pass
// that already holds a lock which a waiter ahead of it wants.
//
// The result has nothing for a key that is free, and is nil where all are.
// Errors are as with [Locks].
func Of(ctx context.Context, db Queryer, keys ...hashkey.Key) ([]Lock, error) {
	locks, err := read(ctx, db, selectLocks+whereKeyIn, addresses(keys))
	if err != nil {
		return nil, err
	}
	for i := range locks {
		locks[i].Key = named(locks[i].Key, keys)
	}
	slices.SortFunc(locks, byQueue)
	return locks, nil
}

// named returns the one of keys that is the same lock as key.
func named(key hashkey.Key, keys []hashkey.Key) hashkey.Key {
	for _, k := range keys {
		if hashkey.Compare(k, key) == 0 {
			return k
		}
	}
	return key
}

func read(ctx context.Context, db Queryer, query string, args ...any) ([]Lock, error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("inspect: %w", err)
	}
	defer rows.Close()
	var locks []Lock
	for rows.Next() {
		lock, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("inspect: %w", err)
		}
		locks = append(locks, lock)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("inspect: %w", err)
	}
	return locks, nil
}
