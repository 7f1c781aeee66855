package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/inspect"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// hostileNames are names that break what pastes them into a text.
var hostileNames = map[string]string{
	"empty":         "",
	"NUL":           "a\x00b",
	"quotes":        `'); drop table t; --"$$` + "`",
	"new lines":     "a\r\nERROR:  b\x1b[2J",
	"a placeholder": "$1 %s %!d(MISSING) {}",
	"invalid UTF-8": "\xff\xfe\xed\xa0\x80",
	"a mebibyte":    strings.Repeat("\x00'\xff\n", 1<<18),
}

// namedVerbs are the ways to take one key and give it back at once. The one that has
// no try waits for at most so long, where that is not 0.
func namedVerbs(db *sql.DB, wait time.Duration) map[string]func(context.Context, hashkey.Key) error {
	x, s := xactlock.New(db), sessionlock.New(db)
	section := func(context.Context, *sql.Conn) error { return nil }
	return map[string]func(context.Context, hashkey.Key) error{
		"TryWithTx": func(ctx context.Context, k hashkey.Key) error { return x.TryWithTx(ctx, k, nothing) },
		"TryWithTx, plain": func(ctx context.Context, k hashkey.Key) error {
			return x.With(xactlock.Options{Plain: true}).TryWithTx(ctx, k, nothing)
		},
		"TryWithTxAll": func(ctx context.Context, k hashkey.Key) error {
			return x.TryWithTxAll(ctx, []hashkey.Key{k, k.Slot(1)}, nothing)
		},
		"TryWithSlot": func(ctx context.Context, k hashkey.Key) error { return x.TryWithSlot(ctx, k, 1, nothing) },
		"Exec": func(ctx context.Context, k hashkey.Key) error {
			_, err := x.With(xactlock.Options{Wait: wait}).Exec(ctx, k, `select 1`)
			return err
		},
		"TryLock": func(ctx context.Context, k hashkey.Key) error {
			return inTx(db, func(tx *sql.Tx) error {
				ok, err := x.TryLock(ctx, tx, k)
				if err == nil && !ok {
					err = fmt.Errorf("%w: %v", xactlock.ErrNotAcquired, k)
				}
				return err
			})
		},
		"session TryWithLock": func(ctx context.Context, k hashkey.Key) error { return s.TryWithLock(ctx, k, section) },
		"session TryLock, shareable": func(ctx context.Context, k hashkey.Key) error {
			lock, err := s.With(sessionlock.Options{Shareable: true}).TryLock(ctx, k)
			if err != nil {
				return err
			}
			return lock.Unlock()
		},
	}
}

// A name is hashed and reaches no text that is executed, so that any name is a
// lock like others, through every verb, and is called by its name in errors.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	for what, name := range hostileNames {
		for i, key := range []hashkey.Key{hashkey.Name(name), hashkey.Namespace(name).Name(name), hashkey.Pair(1, 2).Named(name)} {
			long := len(name) > 1000 // to quote it takes its time
			if long && i > 0 {
				continue
			}
			free, written := hashkey.Name(name+"'"), key.String()
			held := lock(t, sessionlock.New(other), key)
			found := inspectOf(t, db, free, key)
			if len(found) != 1 || found[0].Key != key {
				t.Errorf("%s: inspect finds %d locks", what, len(found))
			}
			for verb, take := range namedVerbs(db, 10*time.Millisecond) {
				if long && verb != "TryWithTx" && verb != "session TryWithLock" {
					continue
				}
				err := take(t.Context(), key)
				if !errors.Is(err, xactlock.ErrNotAcquired) || !strings.Contains(err.Error(), written) {
					t.Errorf("%s, %s: it is held, and the error is %.200v", what, verb, err)
				}
			}
			for verb, take := range namedVerbs(db, 0) {
				if err := take(t.Context(), free); err != nil {
					t.Errorf("%s, %s: another is free, and the error is %.200v", what, verb, err)
				}
			}
			unlock(t, held)
			if err := xactlock.New(db).WithTx(t.Context(), key, nothing); err != nil {
				t.Errorf("%s: %.200v", what, err)
			}
		}
	}
	noTrace(t, other, db)
}

// code returns the SQLSTATE of err.
func code(err error) string {
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		return answer.Code
	}
	return ""
}

// refusesEach checks that each verb fails with the SQLSTATE, says all of the
// words, and nothing that looks as if the lock were held by another.
func refusesEach(t *testing.T, db *sql.DB, sqlState string, words ...string) {
	t.Helper()
	for verb, take := range namedVerbs(db, 0) {
		err := take(bounded(t), hashkey.Name("hostile"))
		if code(err) != sqlState || errors.Is(err, xactlock.ErrNotAcquired) {
			t.Errorf("%s: %v, want SQLSTATE %q", verb, err, sqlState)
			continue
		}
		for _, word := range words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %v does not say %q", verb, err, word)
			}
		}
	}
}

// worksAgain checks that each verb succeeds through the same pool.
func worksAgain(t *testing.T, db *sql.DB) {
	t.Helper()
	for verb, take := range namedVerbs(db, 0) {
		if err := take(bounded(t), hashkey.Name("hostile")); err != nil {
			t.Errorf("%s: %v", verb, err)
		}
	}
}

// A role that lacks a right is told which, and the pool works once it is
// granted.
func TestHostileRoles(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t)
	dsn := server.Database(t) // rights are of a database, and stay in it
	admin := openDB(t, dsn)
	exec(t, admin, `create role pgadvisory_hostile login`)
	t.Cleanup(func() { exec(t, openDB(t, server.DSN()), `drop role pgadvisory_hostile`) })
	as := func(config *pgx.ConnConfig) { config.User = "pgadvisory_hostile" }

	t.Run("no advisory lock functions", func(t *testing.T) {
		db := openDB(t, dsn, as)
		const functions = `select string_agg(p.oid::regprocedure::text, ', ') from pg_proc p where proname ~ '^pg_(try_)?advisory_'`
		var all string
		if err := admin.QueryRow(functions).Scan(&all); err != nil {
			t.Fatal(err)
		}
		exec(t, admin, `revoke execute on function `+all+` from public`)
		refusesEach(t, db, "42501", "permission denied for function pg_", `"hostile"`)
		noTrace(t, admin, db)
		exec(t, admin, `grant execute on function `+all+` to public`)
		worksAgain(t, db)
		noTrace(t, admin, db)
	})
	t.Run("no pg_stat_activity", func(t *testing.T) {
		db := openDB(t, dsn, as)
		exec(t, admin, `revoke select on pg_catalog.pg_stat_activity from public`)
		if _, err := inspect.Locks(t.Context(), db); code(err) != "42501" || !strings.Contains(err.Error(), "pg_stat_activity") {
			t.Errorf("inspect: %v", err)
		}
		worksAgain(t, db)
		exec(t, admin, `grant select on pg_catalog.pg_stat_activity to public`)
	})
	t.Run("no login", func(t *testing.T) {
		db := openDB(t, dsn, as)
		exec(t, admin, `alter role pgadvisory_hostile nologin`)
		refusesEach(t, db, "28000", `role "pgadvisory_hostile" is not permitted to log in`)
		exec(t, admin, `alter role pgadvisory_hostile login`)
		worksAgain(t, db)
	})
	t.Run("one connection", func(t *testing.T) {
		until(t, "the sessions of before are gone", func() bool {
			return number(t, admin, `select count(*) from pg_stat_activity where usename = 'pgadvisory_hostile'`) == 0
		})
		first, db := openDB(t, dsn, as), openDB(t, dsn, as)
		exec(t, admin, `alter role pgadvisory_hostile connection limit 1`)
		held := lock(t, sessionlock.New(first), hashkey.Name("another"))
		refusesEach(t, db, "53300", `too many connections for role "pgadvisory_hostile"`)
		notLost(t, held)
		unlock(t, held)
		first.SetMaxIdleConns(0)
		db.SetMaxOpenConns(1)
		until(t, "there is room again", func() bool { return db.PingContext(t.Context()) == nil })
		worksAgain(t, db)
	})
}

// What a server has no room for, and what it refuses when a session begins, is
// an error that says so. The calls after it succeed as soon as there is room.
func TestHostileServer(t *testing.T) {
	t.Parallel()
	server := pgtest.Dedicated(t, "max_locks_per_transaction = 10", "max_connections = 12", "superuser_reserved_connections = 0",
		"max_worker_processes = 0", "max_wal_senders = 0", "autovacuum_max_workers = 1")
	var strangers []*pgx.Conn
	connect := func() error {
		conn, err := pgx.Connect(t.Context(), server.DSN())
		if err == nil {
			strangers = append(strangers, conn)
		}
		return err
	}
	leave := func() {
		for _, conn := range strangers {
			_ = conn.Close(context.Background())
		}
		strangers = nil
	}
	t.Cleanup(leave)
	db := openDB(t, server.DSN())

	t.Run("locks", func(t *testing.T) {
		warm(t, db, 1) // so that the full table meets no session that begins
		if err := connect(); err != nil {
			t.Fatal(err)
		}
		var err error
		for n := 0; err == nil && n < 10_000; n++ {
			_, err = strangers[0].Exec(t.Context(), fmt.Sprintf(`select pg_advisory_lock(7, %d)`, n))
		}
		if code(err) != "53200" {
			t.Fatalf("the table is not full: %v", err)
		}
		refusesEach(t, db, "53200", xactlock.ErrLockTableFull.Error(), `"hostile"`)
		leave()
		until(t, "there is room", func() bool {
			var held int
			err := db.QueryRow(`select count(*) from pg_locks where locktype = 'advisory'`).Scan(&held) // which takes a lock as well
			return err == nil && held == 0
		})
		worksAgain(t, db)
		noTrace(t, db)
	})
	t.Run("connections", func(t *testing.T) { fullOfConnections(t, db, connect, leave) })
	t.Run("connection string", func(t *testing.T) { wrongDSNs(t, db, server.DSN()) })
}

// fullOfConnections has no connection left on the server: those of db are
// closed, and connect makes others until leave.
func fullOfConnections(t *testing.T, db *sql.DB, connect func() error, leave func()) {
	db.SetMaxIdleConns(0)
	until(t, "the pool is empty", func() bool { return db.Stats().OpenConnections == 0 })
	// A session that was closed may take a moment to end, so this is only
	// over when the server has refused one for some time.
	full := 0
	until(t, "the server is full", func() bool {
		if err := connect(); code(err) == "53300" {
			full++
		} else if err != nil {
			t.Fatal(err)
		}
		return full > 20
	})
	refusesEach(t, db, "53300", "too many clients already")
	led := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	failed := make(chan error, 1)
	leader := sessionlock.New(db).With(sessionlock.Options{Observe: func(e sessionlock.Event) {
		if e.Kind != sessionlock.Failed {
			return
		}
		select {
		case failed <- e.Err:
		default:
		}
	}})
	done := make(chan error, 1)
	go func() {
		done <- leader.Lead(ctx, hashkey.Name("leader"), func(context.Context) error { close(led); <-ctx.Done(); return nil })
	}()
	until(t, "the leader has failed to connect", func() bool {
		select {
		case err := <-failed:
			return code(err) == "53300"
		default:
			return false
		}
	})
	leave()
	select {
	case <-led: // without a new start
	case <-bounded(t).Done():
		t.Error("the leader does not lead")
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Lead: %v", err)
	}
	worksAgain(t, db)
	noTrace(t, db)
}

// An error of connecting names the part of the connection string that is wrong,
// and no password.
func wrongDSNs(t *testing.T, admin *sql.DB, dsn string) {
	var file string
	if err := admin.QueryRow(`show hba_file`).Scan(&file); err != nil {
		t.Fatal(err)
	}
	exec(t, admin, `copy (values ('host all postgres 127.0.0.1/32 trust'), ('host all all 127.0.0.1/32 scram-sha-256')) to '`+file+`'`)
	exec(t, admin, `select pg_reload_conf()`)
	exec(t, admin, `create role app login password 'open:sesame'`)
	good, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	const secret = "sec/ret@#?"
	good.User = url.UserPassword("app", "open:sesame")
	for part, test := range map[string]struct {
		change func(u *url.URL)
		words  []string
		code   string
	}{
		"host":     {func(u *url.URL) { u.Host = "127.0.0.2:" + u.Port() }, []string{"127.0.0.2"}, ""},
		"port":     {func(u *url.URL) { u.Host = u.Hostname() + ":1" }, []string{"127.0.0.1:1"}, ""},
		"user":     {func(u *url.URL) { u.User = url.UserPassword("nobody_here", secret) }, []string{`user "nobody_here"`}, "28P01"},
		"password": {func(u *url.URL) { u.User = url.UserPassword("app", secret) }, []string{"password authentication failed", `user "app"`}, "28P01"},
		"database": {func(u *url.URL) { u.Path = "/no_such_database" }, []string{`database "no_such_database" does not exist`}, "3D000"},
		"sslmode":  {func(u *url.URL) { u.RawQuery = "sslmode=require" }, []string{"TLS"}, ""},
		"setting":  {func(u *url.URL) { u.RawQuery += "&no_such_setting=1" }, []string{`"no_such_setting"`}, "42704"},
		"none":     {func(u *url.URL) {}, nil, ""},
	} {
		t.Run(part, func(t *testing.T) {
			u := *good
			test.change(&u)
			db := openDB(t, u.String())
			for verb, call := range map[string]func() error{
				"WithTx":   func() error { return xactlock.New(db).WithTx(bounded(t), hashkey.Name("k"), nothing) },
				"WithLock": func() error { return namedVerbs(db, 0)["session TryWithLock"](bounded(t), hashkey.Name("k")) },
			} {
				err := call()
				if part == "none" {
					if err != nil {
						t.Errorf("%s: %v", verb, err)
					}
					continue
				}
				if err == nil || code(err) != test.code || errors.Is(err, xactlock.ErrNotAcquired) {
					t.Errorf("%s: %v, want SQLSTATE %q", verb, err, test.code)
					continue
				}
				for _, word := range test.words {
					if !strings.Contains(err.Error(), word) {
						t.Errorf("%s: %v does not say %q", verb, err, word)
					}
				}
				if strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "sesame") {
					t.Errorf("%s: %v has the password", verb, err)
				}
			}
		})
	}
}
