package integration_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// Whatever the options, the lock is one message and the unlock another.
func TestSessionMessages(t *testing.T) {
	var m meter
	db := openMetered(t, pgtest.New(t).Database(t), &m)
	db.SetMaxOpenConns(1)
	key := hashkey.Name("wire")
	for bits := range 16 {
		o := sessionlock.Options{Shared: bits&1 != 0, Pooler: bits&2 != 0}
		if bits&4 != 0 {
			o.Wait = time.Minute
		}
		if bits&8 != 0 {
			o.Poll = time.Minute
		}
		locker := sessionlock.New(db).With(o)
		for name, take := range map[string]func(context.Context, hashkey.Key) (*sessionlock.Lock, error){
			"Lock": locker.Lock, "TryLock": locker.TryLock,
		} {
			var k *sessionlock.Lock
			takes := func() (err error) { k, err = take(t.Context(), key); return err }
			if err := takes(); err != nil { // and the connection is there
				t.Fatal(err)
			}
			unlock(t, k)
			if n := m.during(t, takes); n != 1 {
				t.Errorf("%s %+v: %d messages, want 1", name, o, n)
			}
			if n := m.during(t, func() error { return k.Unlock() }); n != 1 {
				t.Errorf("%s %+v: Unlock: %d messages, want 1", name, o, n)
			}
		}
	}
	if n := m.dials.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	noTrace(t, db)
}

func TestSessionLockExcludes(t *testing.T) {
	db, other := two(t)
	for _, key := range []hashkey.Key{
		hashkey.Name("name"), hashkey.Int64(0), hashkey.Int64(math.MinInt64), hashkey.Int64(-5),
		hashkey.Pair(math.MinInt32, -1), hashkey.Pair(1, 2),
	} {
		k := lock(t, sessionlock.New(db), key)
		if k.Key() != key {
			t.Errorf("Key is %v, want %v", k.Key(), key)
		}
		notLost(t, k)
		_, err := sessionlock.New(other).TryLock(t.Context(), key)
		wantError(t, err, sessionlock.ErrNotAcquired)
		err = xactlock.New(other).TryWithTx(t.Context(), key, unreachable(t))
		wantError(t, err, sessionlock.ErrNotAcquired)
		unlock(t, k)
		isFree(t, other, key)
	}
	noTrace(t, db, other)
}

// A refused try gives its connection back as it was, and does not lose it.
func TestSessionRefusedTryKeepsConnection(t *testing.T) {
	db, other := two(t)
	key := hashkey.Name("refused")
	defer unlock(t, lock(t, sessionlock.New(db), key))
	other.SetMaxOpenConns(1)
	before, settings := number(t, other, `select pg_backend_pid()`), settingsOf(t, other)
	for range 3 {
		_, err := sessionlock.New(other).TryLock(t.Context(), key)
		wantError(t, err, sessionlock.ErrNotAcquired)
		if !strings.Contains(err.Error(), `"refused"`) {
			t.Errorf("%v does not name the key", err)
		}
	}
	if after := number(t, other, `select pg_backend_pid()`); after != before {
		t.Error("the connection was replaced")
	}
	if diff := cmp.Diff(settings, settingsOf(t, other)); diff != "" {
		t.Error(diff)
	}
}

func TestSessionShared(t *testing.T) {
	db, other := two(t)
	key := hashkey.Name("shared")
	shared := sessionlock.New(db).With(sessionlock.Options{Shared: true})
	a, b := lock(t, shared, key), lock(t, shared, key)
	_, err := sessionlock.New(other).TryLock(t.Context(), key)
	wantError(t, err, sessionlock.ErrNotAcquired)
	unlock(t, a)
	unlock(t, b)
	isFree(t, other, key)
	noTrace(t, db, other)
}

func TestSessionInvalid(t *testing.T) {
	db := newDB(t)
	for field, o := range map[string]sessionlock.Options{
		"Wait": {Wait: -1}, "Poll": {Poll: -1}, "Check": {Check: -1}, "DeadClient": {DeadClient: -1},
	} {
		_, err := sessionlock.New(db).With(o).Lock(t.Context(), hashkey.Int64(1))
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: the error is %v", field, err)
		}
	}
	if _, err := sessionlock.New(nil).Lock(t.Context(), hashkey.Int64(1)); err == nil {
		t.Error("a nil pool is no error")
	}
	if err := sessionlock.New(db).WithLock(t.Context(), hashkey.Int64(1), nil); err == nil {
		t.Error("a nil fn is no error")
	}
}

// However the wait ends, the error says so, and whatever the server made of
// it, the lock is not in the pool.
func TestSessionWaitEnds(t *testing.T) {
	db, other := two(t)
	key := hashkey.Name("wait ends")
	holding := lock(t, sessionlock.New(other), key)
	locker := sessionlock.New(db)
	expired, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		name   string
		ctx    context.Context
		locker *sessionlock.Locker
		want   error
	}{
		{"Wait", t.Context(), locker.With(sessionlock.Options{Wait: 10 * time.Millisecond}), context.DeadlineExceeded},
		{"Wait, polling", t.Context(), locker.With(sessionlock.Options{Wait: 10 * time.Millisecond, Poll: time.Millisecond}), context.DeadlineExceeded},
		{"deadline", expired, locker, context.DeadlineExceeded},
		{"over before", over, locker, context.Canceled},
	} {
		_, err := test.locker.Lock(test.ctx, key)
		t.Logf("%s: %v", test.name, err)
		wantError(t, err, sessionlock.ErrNotAcquired, test.want)
	}
	unlock(t, holding)
	noTrace(t, db, other)
}

func TestSessionCancelledWait(t *testing.T) {
	db, other := two(t)
	key := hashkey.Name("cancelled")
	holding := lock(t, sessionlock.New(other), key)
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := sessionlock.New(db).Lock(ctx, key)
		done <- err
	}()
	until(t, "it waits", func() bool { return waitingLocks(t, other) == 1 })
	start := time.Now()
	cancel(errExpected)
	err := <-done
	if took := time.Since(start); took > time.Second {
		t.Errorf("returned %v after the cancellation", took)
	}
	wantError(t, err, sessionlock.ErrNotAcquired, context.Canceled, errExpected)
	unlock(t, holding)
	noTrace(t, db, other)
}

// The wait is the caller's to bound, not the role's, and the holder finds the
// role's limits as they were.
func TestSessionWaitIsNotTheRoles(t *testing.T) {
	dsn := pgtest.New(t).Database(t)
	other := openDB(t, dsn)
	for _, name := range []string{"lock_timeout", "statement_timeout", "transaction_timeout"} {
		if number(t, other, `select count(*) from pg_settings where name = $1`, name) == 1 {
			exec(t, other, fmt.Sprintf(`do $$ begin execute format('alter database %%I set %s = ''100ms''', current_database()); end $$`, name))
		}
	}
	db := openDB(t, dsn)
	key := hashkey.Name("role")
	holding := lock(t, sessionlock.New(other), key)
	locked := make(chan *sessionlock.Lock, 1)
	go func() { locked <- lock(t, sessionlock.New(db), key) }()
	until(t, "it waits for longer than the role would", func() bool {
		return number(t, other, `select count(*) from pg_stat_activity
			where wait_event_type = 'Lock' and clock_timestamp() - query_start > interval '300 ms'`) == 1
	})
	unlock(t, holding)
	k := <-locked
	var limits string
	err := k.Conn().QueryRowContext(t.Context(),
		`select current_setting('lock_timeout') || ' ' || current_setting('statement_timeout')`).Scan(&limits)
	if err != nil || limits != "100ms 100ms" {
		t.Errorf("the holder finds %q, %v", limits, err)
	}
	unlock(t, k)
	noTrace(t, db, other)
}

// settingsOf returns all settings of db's next session, and where they come
// from.
func settingsOf(tb testing.TB, db interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
}) map[string]string {
	tb.Helper()
	rows, err := db.QueryContext(context.Background(), `select name, setting, source from pg_settings`)
	if err != nil {
		tb.Fatal(err)
	}
	defer rows.Close()
	settings := make(map[string]string)
	for rows.Next() {
		var name, value, source string
		if err := rows.Scan(&name, &value, &source); err != nil {
			tb.Fatal(err)
		}
		settings[name] = value + " (" + source + ")"
	}
	if err := rows.Err(); err != nil {
		tb.Fatal(err)
	}
	return settings
}

// The settings of the session are changed while it holds the lock, and are as
// they were when it is back in the pool, those that somebody has set as well.
func TestSessionSettings(t *testing.T) {
	for _, options := range []sessionlock.Options{{}, {Poll: time.Second}, {Pooler: true, Wait: time.Minute}} {
		db := newDB(t)
		db.SetMaxOpenConns(1)
		exec(t, db, `set tcp_user_timeout = 7000`)
		exec(t, db, `set idle_session_timeout = '9 min'`)
		before := settingsOf(t, db)
		options.DeadClient = 18 * time.Second
		k := lock(t, sessionlock.New(db).With(options), hashkey.Name("settings"))
		during := settingsOf(t, k.Conn())
		changed := make(map[string]string)
		for name, value := range during {
			if value != before[name] {
				changed[name] = value
			}
		}
		want := map[string]string{
			"tcp_keepalives_idle":              "9 (session)",
			"tcp_keepalives_interval":          "3 (session)",
			"tcp_keepalives_count":             "3 (session)",
			"tcp_user_timeout":                 "18000 (session)",
			"client_connection_check_interval": "3000 (session)",
			"idle_session_timeout":             "0 (session)",
		}
		if diff := cmp.Diff(want, changed); diff != "" {
			t.Errorf("%+v: while it is held: %s", options, diff)
		}
		unlock(t, k)
		if diff := cmp.Diff(before, settingsOf(t, db)); diff != "" {
			t.Errorf("%+v: afterwards: %s", options, diff)
		}
		noTrace(t, db)
	}
}

// A role's idle_session_timeout does not end a holder that has nothing to say.
func TestSessionIdleTimeoutOfTheRole(t *testing.T) {
	dsn := pgtest.New(t).Database(t)
	other := openDB(t, dsn)
	exec(t, other, `do $$ begin execute format('alter database %I set idle_session_timeout = ''200ms''', current_database()); end $$`)
	k := lock(t, sessionlock.New(openDB(t, dsn)), hashkey.Name("idle"))
	silentFor(t, other, backend(t, k), time.Second)
	notLost(t, k)
	unlock(t, k)
}

func TestSessionNested(t *testing.T) {
	db := newDB(t)
	key, another := hashkey.Name("nested"), hashkey.Name("another")
	locker := sessionlock.New(db)
	err := locker.WithLock(t.Context(), key, func(ctx context.Context, _ *sql.Conn) error {
		for _, try := range []func(context.Context, hashkey.Key) (*sessionlock.Lock, error){locker.Lock, locker.TryLock} {
			_, err := try(ctx, key)
			wantError(t, err, sessionlock.ErrNested)
		}
		wantError(t, xactlock.New(db).WithTx(ctx, key, unreachable(t)), sessionlock.ErrNested)
		if err := xactlock.New(db).WithTx(ctx, another, nothing); err != nil {
			return err
		}
		return locker.WithLock(ctx, another, func(context.Context, *sql.Conn) error { return nil })
	})
	if err != nil {
		t.Error(err)
	}
	err = xactlock.New(db).WithTx(t.Context(), key, func(ctx context.Context, _ *sql.Tx) error {
		_, err := locker.Lock(ctx, key)
		return err
	})
	wantError(t, err, sessionlock.ErrNested)
	noTrace(t, db)
}

// Tokens grow from holder to holder, whoever it is, and stay the same for one.
func TestSessionToken(t *testing.T) {
	db, other := two(t)
	key := hashkey.Name("token")
	var tokens []uint64
	for i := range 6 {
		k := lock(t, sessionlock.New([]*sql.DB{db, other}[i%2]), key)
		token, err := k.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if again, err := k.Token(t.Context()); again != token || err != nil {
			t.Errorf("asked again, the token is %d (%v), not %d", again, err, token)
		}
		unlock(t, k)
		tokens = append(tokens, token)
		_, err = k.Token(t.Context())
		wantError(t, err, sessionlock.ErrUnlocked)
	}
	if !slices.IsSorted(tokens) || len(slices.Compact(slices.Clone(tokens))) != len(tokens) {
		t.Errorf("tokens do not grow: %v", tokens)
	}
}

// A ctx that ends while the token is asked for does not cost the lock.
func TestSessionTokenCancelled(t *testing.T) {
	db := newDB(t)
	k := lock(t, sessionlock.New(db).With(quick), hashkey.Name("token"))
	for i := range stress(2000) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%50)*20*time.Microsecond)
		_, err := k.Token(ctx)
		cancel()
		if err == nil {
			unlock(t, k)
			k = lock(t, sessionlock.New(db).With(quick), hashkey.Name("token"))
			continue
		}
		notLost(t, k)
	}
	unlock(t, k)
}

// With a *sql.DB over a pgxpool a session that is discarded must be closed,
// because ErrBadConn only gives it back.
func TestSessionOverPgxpool(t *testing.T) {
	dsn := pgtest.New(t).Database(t)
	pool, err := pgxpool.New(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	db := stdlib.OpenDBFromPool(pool)
	t.Cleanup(func() { _ = db.Close() })
	other := openDB(t, dsn)
	key := hashkey.Name("pgxpool")
	k := lock(t, sessionlock.New(db), key)
	pid := backend(t, k)
	if _, err := k.Conn().ExecContext(t.Context(), `begin`); err != nil {
		t.Fatal(err)
	}
	if err := k.Unlock(); err == nil {
		t.Error("a transaction left open is no error")
	}
	until(t, "the session is gone", func() bool {
		return number(t, other, `select count(*) from pg_stat_activity where pid = $1`, pid) == 0
	})
	isFree(t, other, key)
	noTrace(t, other, db)
}

// wrapped is a driver connection as an instrumented driver has it.
type wrapped struct{ driver.Conn }

type unwrappable struct{ wrapped }

func (c unwrappable) Raw() driver.Conn { return c.Conn }

type wrapper struct {
	driver.Connector
	wrap func(driver.Conn) driver.Conn
}

func (w wrapper) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := w.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return w.wrap(conn), nil
}

func TestSessionOtherDrivers(t *testing.T) {
	config, err := pgx.ParseConfig(pgtest.New(t).Database(t))
	if err != nil {
		t.Fatal(err)
	}
	key := hashkey.Name("driver")
	take := func(wrap func(driver.Conn) driver.Conn) error {
		db := sql.OpenDB(wrapper{stdlib.GetConnector(*config), wrap})
		defer db.Close()
		return sessionlock.New(db).WithLock(t.Context(), key, func(context.Context, *sql.Conn) error { return nil })
	}
	if err := take(func(c driver.Conn) driver.Conn { return unwrappable{wrapped{c}} }); err != nil {
		t.Errorf("a wrapper that can be unwrapped: %v", err)
	}
	err = take(func(c driver.Conn) driver.Conn { return wrapped{c} })
	if err == nil || !strings.Contains(err.Error(), "wrapped") || errors.Is(err, sessionlock.ErrNotAcquired) {
		t.Errorf("a wrapper that cannot: %v", err)
	}
}

// On a hot standby a lock excludes nobody.
func TestSessionStandby(t *testing.T) {
	standby := pgtest.Dedicated(t).Standby(t)
	db := openDB(t, standby.DSN())
	_, err := sessionlock.New(db).Lock(t.Context(), hashkey.Name("standby"))
	wantError(t, err, sessionlock.ErrStandby)
	noTrace(t, db)
}

// CockroachDB reports itself in a parameter when the session begins. This
// server does no more than that.
func TestSessionUnsupportedServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			go pretend(conn)
		}
	}()
	db := openDB(t, "postgres://roach@"+listener.Addr().String()+"/defaultdb?sslmode=disable")
	_, err = sessionlock.New(db).Lock(t.Context(), hashkey.Name("pretender"))
	wantError(t, err, sessionlock.ErrUnsupportedServer)
	err = sessionlock.New(db).Lead(t.Context(), hashkey.Name("pretender"), func(context.Context) error { return nil })
	wantError(t, err, sessionlock.ErrUnsupportedServer)
}

// pretend begins a session on conn as CockroachDB does, and takes no message.
func pretend(conn net.Conn) {
	defer conn.Close()
	backend := pgproto3.NewBackend(conn, conn)
	if _, err := backend.ReceiveStartupMessage(); err != nil {
		return
	}
	backend.Send(&pgproto3.AuthenticationOk{})
	backend.Send(&pgproto3.ParameterStatus{Name: "crdb_version", Value: "CockroachDB CCL v25.1.0"})
	backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if err := backend.Flush(); err == nil {
		_, _ = backend.Receive() // until the client has seen enough
	}
}
