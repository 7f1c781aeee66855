package integration_test

import (
	"context"
	"strings"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// A pooler is refused, whatever its mode, with an error that says what to do,
// and nothing is locked or set on the session behind it.
func TestSessionPoolerRefused(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"transaction", "session"} {
		t.Run(mode, func(t *testing.T) {
			dsn := newDatabase(t)
			direct, db := openDB(t, dsn), openDB(t, pgtest.Bouncer(t, dsn, mode))
			db.SetMaxOpenConns(1)
			before := settingsOf(t, db)
			for name, locker := range map[string]*sessionlock.Locker{
				"queue": sessionlock.New(db), "poll": sessionlock.New(db).With(sessionlock.Options{Poll: 1}),
			} {
				_, err := locker.Lock(t.Context(), hashkey.Name("pooler"))
				t.Logf("%s: %v", name, err)
				wantError(t, err, sessionlock.ErrPooler)
				if text := err.Error(); strings.Count(text, "pgadvisory: ")+strings.Count(text, "sessionlock: ") != 1 {
					t.Error("there is more than one prefix")
				}
				if !strings.Contains(err.Error(), "Options.Pooler") || !strings.Contains(err.Error(), "xactlock") {
					t.Error("the error does not say what to do")
				}
				err = locker.Lead(t.Context(), hashkey.Name("pooler"), func(context.Context) error { return nil })
				wantError(t, err, sessionlock.ErrPooler)
			}
			if n := heldLocks(t, direct); n != 0 {
				t.Errorf("%d locks are left behind", n)
			}
			if after := settingsOf(t, db); after["tcp_user_timeout"] != before["tcp_user_timeout"] {
				t.Error("settings are left behind")
			}
		})
	}
}

// A pooler that pools sessions is good enough, if the caller says so: the lock
// excludes, is noticed when lost, and is not left behind.
func TestSessionPoolerAccepted(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	direct, db := openDB(t, dsn), openDB(t, pgtest.Bouncer(t, dsn, "session"))
	key := hashkey.Name("accepted")
	o := quick
	o.Pooler = true
	locker := sessionlock.New(db).With(o)

	k := lock(t, locker, key)
	_, err := sessionlock.New(direct).TryLock(t.Context(), key)
	wantError(t, err, sessionlock.ErrNotAcquired)
	_, err = locker.TryLock(t.Context(), key)
	wantError(t, err, sessionlock.ErrNotAcquired)
	unlock(t, k)
	isFree(t, direct, key)

	k = lock(t, locker, key)
	terminate(t, direct, backend(t, k))
	lostWithin(t, k, patience)
	wantError(t, k.Unlock(), sessionlock.ErrLost)
	becomesFree(t, direct, key)

	// A client that goes away without a word leaves the lock to the pooler,
	// which cleans the session.
	k = lock(t, locker, key)
	if err := k.Conn().Close(); err != nil {
		t.Fatal(err)
	}
	wantError(t, k.Unlock(), sessionlock.ErrLost)
	becomesFree(t, direct, key)
	exec(t, db, `select 1`) // the pool is none the worse for it
}

// What the refusal prevents: two holders of one lock, and a lock that nobody
// can give back, because each transaction may run on another session.
func TestSessionPoolerDamage(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	direct, db := openDB(t, dsn), openDB(t, pgtest.Bouncer(t, dsn, "transaction"))
	careless := sessionlock.New(db).With(sessionlock.Options{Pooler: true})
	key := hashkey.Name("damage")
	first, second := lock(t, careless, key), lock(t, careless, key) // at the same time
	// Another client's transaction moves into the session with the lock.
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(`select 1`); err != nil {
		t.Fatal(err)
	}
	err = first.Unlock()
	wantError(t, err, sessionlock.ErrLost)
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	t.Logf("the first of two holders unlocks: %v; the second: %v", err, second.Unlock())
	exec(t, direct, `select pg_terminate_backend(pid) from pg_locks where`+inThisDatabase)
	noTrace(t, direct)
}
