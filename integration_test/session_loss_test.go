package integration_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/internal/pulse"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// opaque hides the sockets of a pool, as a dialer of the caller's own may.
var opaque = wrapping(func(c net.Conn) net.Conn { return struct{ net.Conn }{c} })

// The ways in which a session ends with its socket, on a socket that can be
// looked at and on one that cannot.
func TestSessionLoss(t *testing.T) {
	for name, options := range map[string][]func(*pgx.ConnConfig){"socket": nil, "no socket": {opaque}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := pgtest.Dedicated(t)
			dsn := server.Database(t)
			other := openDB(t, dsn)
			p, through := newProxy(t, dsn)
			db := openDB(t, dsn, append([]func(*pgx.ConnConfig){through}, options...)...)
			for _, test := range []struct {
				name string
				end  func(k *sessionlock.Lock)
			}{
				{"terminated", func(k *sessionlock.Lock) { terminate(t, other, backend(t, k)) }},
				{"proxy closes", func(*sessionlock.Lock) { p.cutAll() }},
				{"crash", func(*sessionlock.Lock) { server.Crash(t) }},
				{"restart", func(*sessionlock.Lock) { server.Restart(t) }},
			} {
				if test.name == "restart" {
					server.Restart(t) // after the crash
				}
				t.Run(test.name, func(t *testing.T) { testLoss(t, db, test.end) })
			}
			noTrace(t, other, db)
		})
	}
}

// testLoss checks that WithLock's fn learns of the loss.
func testLoss(t *testing.T, db *sql.DB, end func(*sessionlock.Lock)) {
	err := sessionlock.New(db).WithLock(bounded(t), hashkey.Name("loss"), func(ctx context.Context, _ *sql.Conn) error {
		k := sessionlock.FromContext(ctx)
		notLost(t, k)
		end(k)
		lostWithin(t, k, 2*time.Second) // the default Check is a second
		<-ctx.Done()
		if cause := context.Cause(ctx); cause != sessionlock.ErrLost {
			t.Errorf("cause is %v", cause)
		}
		return errExpected
	})
	t.Log(err)
	wantError(t, err, errExpected, sessionlock.ErrLost)
}

// fn may return the cause of its ctx's end. The error says once that the lock was
// lost, and how.
func TestSessionLossReturnedByFn(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	err := sessionlock.New(db).With(quick).WithLock(bounded(t), hashkey.Name("cause"), func(ctx context.Context, _ *sql.Conn) error {
		terminate(t, other, backend(t, sessionlock.FromContext(ctx)))
		<-ctx.Done()
		return context.Cause(ctx)
	})
	wantError(t, err, sessionlock.ErrLost)
	if text := fmt.Sprint(err); strings.Count(text, sessionlock.ErrLost.Error()) != 1 || !strings.Contains(text, `"cause"`) {
		t.Errorf("got %v", err)
	}
}

// What ends the session has the last word on the wire, and nobody reads it:
// rows are open, with more to come.
func TestSessionLossUnderRows(t *testing.T) {
	db, other := two(t)
	k := lock(t, sessionlock.New(db).With(quick), hashkey.Name("rows"))
	pid := backend(t, k)
	rows := openRows(t, k.Conn())
	defer rows.Close()
	until(t, "all is sent", func() bool {
		return number(t, other, `select count(*) from pg_stat_activity where pid = $1 and state = 'idle'`, pid) == 1
	})
	terminate(t, other, pid)
	lostWithin(t, k, time.Second)
}

// openRows returns rows of which most are on their way.
func openRows(tb testing.TB, conn *sql.Conn) *sql.Rows {
	tb.Helper()
	rows, err := conn.QueryContext(context.Background(), `select repeat('x', 100) from generate_series(1, 400)`)
	if err != nil {
		tb.Fatal(err)
	}
	if !rows.Next() {
		tb.Fatal(rows.Err())
	}
	return rows
}

// A loss is noticed while the caller has the connection and sends nothing.
func TestSessionLossUnderRaw(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	k := lock(t, sessionlock.New(db).With(quick), hashkey.Name("k"))
	pid := backend(t, k)
	err := k.Conn().Raw(func(any) error {
		passes(t, other, 5*quick.Check) // a look waits for the connection
		terminate(t, other, pid)
		lostWithin(t, k, patience)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	wantError(t, k.Unlock(), sessionlock.ErrLost)
	noTrace(t, other, db)
}

// A statement that takes longer than Check, a transaction and rows that are
// open are no loss, though the server is being asked all the time.
func TestSessionBusyIsNoLoss(t *testing.T) {
	for name, options := range map[string][]func(*pgx.ConnConfig){"socket": nil, "no socket": {opaque}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := newDatabase(t)
			db := openDB(t, dsn, options...)
			ctx := pulse.With(t.Context(), 200*time.Millisecond)
			k := lockUnder(ctx, t, sessionlock.New(db).With(sessionlock.Options{Check: 5 * time.Millisecond}), hashkey.Name("busy"))
			if _, err := k.Conn().ExecContext(t.Context(), `select pg_sleep(1)`); err != nil {
				t.Error(err)
			}
			notLost(t, k)

			rows := openRows(t, k.Conn())
			passes(t, db, 500*time.Millisecond)
			n := 1
			for rows.Next() {
				n++
			}
			if err := rows.Err(); err != nil || n != 400 {
				t.Errorf("%d rows, %v", n, err)
			}
			notLost(t, k)
			inTransaction(t, db, k)
			unlock(t, k)
			noTrace(t, db)
		})
	}
}

// passes lets the server count d.
func passes(tb testing.TB, db *sql.DB, d time.Duration) {
	tb.Helper()
	exec(tb, db, `select pg_sleep($1)`, d.Seconds())
}

// inTransaction checks that k's questions do not take a transaction's
// snapshot, which would forbid to set its isolation level, and do not fail in
// one that has failed.
func inTransaction(t *testing.T, db *sql.DB, k *sessionlock.Lock) {
	tx, err := k.Conn().BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	passes(t, db, 300*time.Millisecond)
	if _, err := tx.Exec(`set transaction isolation level serializable`); err != nil {
		t.Error(err)
	}
	if _, err := tx.Exec(`select 1/0`); err == nil {
		t.Error("1/0 is no error")
	}
	passes(t, db, 300*time.Millisecond)
	notLost(t, k)
}

// A holder that may not read pg_locks has not lost its lock.
func TestSessionRefusedQuestionIsNoLoss(t *testing.T) {
	dsn := pgtest.New(t).Database(t) // rights stay in the database
	db, other := openDB(t, dsn), openDB(t, dsn)
	exec(t, other, `revoke select on pg_locks from public`)
	exec(t, other, `create role pgadvisory_blind`)
	t.Cleanup(func() { exec(t, other, `drop role pgadvisory_blind`) })
	k := lockUnder(pulse.With(t.Context(), 200*time.Millisecond), t, sessionlock.New(db).With(quick), hashkey.Name("blind"))
	if _, err := k.Conn().ExecContext(t.Context(), `set role pgadvisory_blind`); err != nil {
		t.Fatal(err)
	}
	passes(t, other, time.Second)
	notLost(t, k)
	unlock(t, k)
	exec(t, db, `reset role`)
	noTrace(t, db, other)
}

// A proxy that swallows everything without closing is noticed within twice
// the time between two questions.
func TestSessionSwallowed(t *testing.T) {
	const interval = 2 * time.Second
	for name, prepare := range map[string]func(*sessionlock.Lock){
		"idle": func(*sessionlock.Lock) {},
		"in a transaction": func(k *sessionlock.Lock) {
			if _, err := k.Conn().ExecContext(t.Context(), `begin`); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := newDatabase(t)
			p, through := newProxy(t, dsn)
			db, other := openDB(t, dsn, through), openDB(t, dsn)
			k := lockUnder(pulse.With(t.Context(), interval), t, sessionlock.New(db).With(quick), hashkey.Name("swallowed"))
			prepare(k)
			p.silent.Store(true)
			lostWithin(t, k, 2*interval)
			p.silent.Store(false)
			wantError(t, k.Unlock(), sessionlock.ErrLost)
			p.cutAll() // or the server would wait for DeadClient
			becomesFree(t, other, hashkey.Name("swallowed"))
			noTrace(t, other)
		})
	}
}

// A lock that the session no longer has is noticed by asking for it.
func TestSessionLockGone(t *testing.T) {
	db, other := two(t)
	k := lockUnder(pulse.With(t.Context(), 100*time.Millisecond), t, sessionlock.New(db).With(quick), hashkey.Name("gone"))
	if _, err := k.Conn().ExecContext(t.Context(), `select pg_advisory_unlock_all()`); err != nil {
		t.Fatal(err)
	}
	lostWithin(t, k, time.Second)
	wantError(t, k.Unlock(), sessionlock.ErrLost)
	noTrace(t, db, other)
}

// The watch sends nothing but a question at each interval.
func TestSessionQuietMinute(t *testing.T) {
	for name, test := range map[string]struct {
		options []func(*pgx.ConnConfig)
		ctx     context.Context
		minute  time.Duration
		most    int
	}{
		"shortened":            {nil, pulse.With(t.Context(), time.Second), 6 * time.Second, 6},
		"shortened, no socket": {[]func(*pgx.ConnConfig){opaque}, pulse.With(t.Context(), time.Second), 6 * time.Second, 6},
		"as it is":             {nil, t.Context(), 6 * time.Second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := newDatabase(t)
			p, through := newProxy(t, dsn)
			db := openDB(t, dsn, append([]func(*pgx.ConnConfig){through}, test.options...)...)
			k := lockUnder(test.ctx, t, sessionlock.New(db).With(sessionlock.Options{Check: 5 * time.Millisecond}), hashkey.Name("quiet"))
			before := p.messages.Load()
			passes(t, openDB(t, dsn), test.minute)
			n := int(p.messages.Load() - before)
			t.Logf("%d messages", n)
			if n > test.most || n < test.most-2 {
				t.Errorf("%d messages, want %d", n, test.most)
			}
			notLost(t, k)
			unlock(t, k)
		})
	}
}

// Questions and statements on Conn do not get in each other's way.
func TestSessionConnInUse(t *testing.T) {
	for name, options := range map[string][]func(*pgx.ConnConfig){"socket": nil, "no socket": {opaque}} {
		t.Run(name, func(t *testing.T) {
			db := openDB(t, newDatabase(t), options...)
			ctx := pulse.With(t.Context(), 200*time.Millisecond)
			k := lockUnder(ctx, t, sessionlock.New(db).With(sessionlock.Options{Check: time.Millisecond}), hashkey.Name("in use"))
			conn := connQueryer{k.Conn()}
			for i := range 3000 {
				if n := number(t, conn, `select $1::int`, i); n != i {
					t.Fatalf("asked for %d and got %d", i, n)
				}
			}
			notLost(t, k)
			unlock(t, k)
			noTrace(t, db)
		})
	}
}

// Under TLS it is the socket below that is looked at.
func TestSessionLossUnderTLS(t *testing.T) {
	server := pgtest.Dedicated(t)
	dsn := server.Database(t)
	other := openDB(t, dsn)
	turnOnTLS(t, other)
	db := openDB(t, dsn, func(config *pgx.ConnConfig) { config.TLSConfig = &tls.Config{InsecureSkipVerify: true} })
	for name, end := range map[string]func(pid int){
		"terminated": func(pid int) { terminate(t, other, pid) },
		"crash":      func(int) { server.Crash(t) },
	} {
		k := lock(t, sessionlock.New(db).With(quick), hashkey.Name("tls"))
		pid := backend(t, k)
		if number(t, other, `select count(*) from pg_stat_ssl where ssl and pid = $1`, pid) != 1 {
			t.Fatal("the connection is not encrypted")
		}
		end(pid)
		t.Log(name)
		lostWithin(t, k, time.Second)
		wantError(t, k.Unlock(), sessionlock.ErrLost)
		server.Restart(t)
		until(t, "the test's own connections are new", func() bool { return other.Ping() == nil && db.Ping() == nil })
	}
	noTrace(t, other, db)
}

// turnOnTLS gives the server of db a certificate, through SQL, because the key
// must belong to the server's account.
func turnOnTLS(t *testing.T, db *sql.DB) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		"server.key": {Type: "PRIVATE KEY", Bytes: private},
		"server.crt": {Type: "CERTIFICATE", Bytes: certificate},
	} {
		exec(t, db, fmt.Sprintf(`copy (select unnest(string_to_array('%s', E'\n'))) to program 'umask 077; cat > %s'`, pem.EncodeToMemory(block), file))
	}
	exec(t, db, `alter system set ssl = on`)
	exec(t, db, `select pg_reload_conf()`)
	until(t, "TLS is on", func() bool {
		return number(t, db, `select count(*) from pg_settings where name = 'ssl' and setting = 'on'`) == 1
	})
}

// A ctx that ends while a statement runs on Conn costs the lock, unless pgx is
// configured to cancel the statement only.
func TestSessionStatementOutlivesItsContext(t *testing.T) {
	for name, test := range map[string]struct {
		configure func(*pgx.ConnConfig)
		lost      bool
	}{
		"by default": {func(*pgx.ConnConfig) {}, true},
		"cancel the statement": {func(config *pgx.ConnConfig) {
			config.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
				return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: patience}
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			db := openDB(t, newDatabase(t), test.configure)
			k := lock(t, sessionlock.New(db).With(quick), hashkey.Name("statement"))
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if _, err := k.Conn().ExecContext(ctx, `select pg_sleep(3600)`); err == nil {
				t.Fatal("the statement succeeded")
			}
			if test.lost {
				lostWithin(t, k, time.Second)
				wantError(t, k.Unlock(), sessionlock.ErrLost)
			} else {
				notLost(t, k)
				unlock(t, k)
			}
			noTrace(t, db)
		})
	}
}
