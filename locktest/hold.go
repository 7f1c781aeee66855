package locktest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/inspect"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// patience bounds what Hold and Lose wait for.
var patience = 30 * time.Second

// openOwn returns a pool of this package's own, of one connection.
func openOwn(tb testing.TB, url string) *sql.DB {
	tb.Helper()
	db := open(tb, url, func(config *pgx.ConnConfig) { config.RuntimeParams["application_name"] = "locktest" })
	db.SetMaxOpenConns(1)
	return db
}

// Hold has another session hold key, in the database that url points to, until
// release is called or the test ends. The session has nothing to do with the pools
// of the test. The key is held when Hold returns, and free when
// release does. release may be called more than once.
//
// Hold waits for a key that is held already. It fails the test if half a minute
// is not enough, and names the holder.
//
// url must lead to the server, and not to a pooler.
func Hold(tb testing.TB, url string, key hashkey.Key) (release func()) {
	tb.Helper()
	db := openOwn(tb, url)
	ctx := context.WithoutCancel(tb.Context()) // in a Cleanup of the test it has ended
	lock, err := sessionlock.New(db).With(sessionlock.Options{Wait: patience}).Lock(ctx, key)
	if err != nil {
		tb.Fatalf("locktest: hold the lock: %v%s", err, holders(db, key))
	}
	release = sync.OnceFunc(func() {
		// A lock that Lose has ended is as free as one that is given back.
		if err := lock.Unlock(); err != nil && !errors.Is(err, sessionlock.ErrLost) {
			tb.Errorf("locktest: release the lock: %v", err)
		}
	})
	tb.Cleanup(release)
	return release
}

// holders names the holders of key, for a message.
func holders(db *sql.DB, key hashkey.Key) string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	locks, err := inspect.Of(ctx, db, key)
	if err != nil {
		return fmt.Sprintf(" (and who has it is not known: %v)", err)
	}
	var b strings.Builder
	for _, l := range locks {
		if l.Granted {
			fmt.Fprintf(&b, "\n\theld by pid %d, application %q, %s, last query: %s", l.PID, l.Application, l.State, l.Query)
		}
	}
	return b.String()
}

// Lose has the holder of key lose its lock: it ends the sessions that hold key in
// the database that url points to, as an administrator does with
// pg_terminate_backend. They are gone when Lose returns, with everything that they
// had locked, and the key is free. The holder's process is told by its
// connection, and notices in its own time: see sessionlock's Options.Check.
//
// Lose fails the test if key is free.
func Lose(tb testing.TB, url string, key hashkey.Key) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), patience) // see Hold
	defer cancel()
	db := openOwn(tb, url)
	pids, err := holdingPIDs(ctx, db, key)
	if err != nil {
		tb.Fatalf("locktest: find the holder of %v: %v", key, err)
	}
	if len(pids) == 0 {
		tb.Fatalf("locktest: nobody holds %v in this database, so nobody can lose it", key)
	}
	for _, pid := range pids {
		// The result is false for a session that has just ended.
		if _, err := db.ExecContext(ctx, `select pg_catalog.pg_terminate_backend($1)`, pid); err != nil {
			tb.Fatalf("locktest: end the session that holds %v: %v", key, err)
		}
	}
	for {
		still, err := holdingPIDs(ctx, db, key)
		if err != nil {
			tb.Fatalf("locktest: wait until %v is lost: %v", key, err)
		}
		if !slices.ContainsFunc(still, func(pid int32) bool { return slices.Contains(pids, pid) }) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// holdingPIDs returns the sessions that hold key.
func holdingPIDs(ctx context.Context, db *sql.DB, key hashkey.Key) ([]int32, error) {
	locks, err := inspect.Of(ctx, db, key)
	if err != nil {
		return nil, err
	}
	var pids []int32
	for _, l := range locks {
		switch {
		case l.Granted && l.PID == 0:
			return nil, errors.New("a prepared transaction has it, which no session can lose")
		case l.Granted:
			pids = append(pids, l.PID)
		}
	}
	return pids, nil
}
