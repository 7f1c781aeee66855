package integration_test

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// With a *sql.DB over a pgxpool a session that is discarded must be closed,
// because ErrBadConn only gives it back.
func TestSessionOverPgxpool(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
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
	if _, err := k.Conn().ExecContext(t.Context(), `select pg_advisory_unlock_all()`); err != nil {
		t.Fatal(err)
	}
	wantError(t, k.Unlock(), sessionlock.ErrLost)
	sessionEnds(t, other, pid)
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
	t.Parallel()
	config, err := pgx.ParseConfig(newDatabase(t))
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

// On a hot standby a lock excludes nobody. Since PostgreSQL 14 a server says
// what it is when the session begins. One before that does not, and a pooler
// may say what was true of the server that it had yesterday.
func TestSessionStandby(t *testing.T) {
	t.Parallel()
	standby := pgtest.Dedicated(t).Standby(t)
	ctx := bounded(t)
	watcher := openDB(t, standby.DSN())
	for name, options := range map[string][]func(*pgx.ConnConfig){"it says so": nil, "it does not": {reticent}, "it refuses": {bySerializable}} {
		db := openDB(t, standby.DSN(), options...)
		for _, o := range []sessionlock.Options{{}, {Poll: time.Millisecond}, {Shared: true}, {Pooler: true}} {
			locker := sessionlock.New(db).With(o)
			for how, take := range map[string]func(context.Context, hashkey.Key) (*sessionlock.Lock, error){
				"Lock": locker.Lock, "TryLock": locker.TryLock,
			} {
				k, err := take(ctx, hashkey.Name("standby"))
				if err == nil {
					unlock(t, k)
				}
				if !errors.Is(err, sessionlock.ErrStandby) {
					t.Errorf("%s, %s %+v: error is %v, want %v", name, how, o, err, sessionlock.ErrStandby)
				}
			}
		}
		noTrace(t, watcher, db)
	}
}

// bySerializable has SERIALIZABLE as the default of the session, which a hot standby
// does not know: it refuses each statement that has no level of its own.
func bySerializable(config *pgx.ConnConfig) {
	config.RuntimeParams["default_transaction_isolation"] = "serializable"
}

// reticent keeps it from the client whether the server is a hot standby.
var reticent = wrapping(func(c net.Conn) net.Conn { return reticentConn{c} })

type reticentConn struct{ net.Conn }

func (c reticentConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	copy(b, bytes.ReplaceAll(b[:n], []byte("in_hot_standby"), []byte("in_hot_unknown")))
	return n, err
}

// A session of a standby becomes one of a primary when the standby is
// promoted, which the server does not say to a client that sends nothing. The
// lock is to be had there from then on all the same.
func TestSessionPromoted(t *testing.T) {
	t.Parallel()
	standby := pgtest.Dedicated(t).Standby(t)
	var m meter
	db, other := openMetered(t, standby.DSN(), &m), openDB(t, standby.DSN())
	db.SetMaxOpenConns(1)
	key := hashkey.Name("promoted")
	_, err := sessionlock.New(db).TryLock(t.Context(), key)
	wantError(t, err, sessionlock.ErrStandby)
	exec(t, other, `select pg_promote()`)
	k, err := sessionlock.New(db).TryLock(t.Context(), key)
	if err != nil {
		t.Fatalf("the standby is promoted, and the error is %v", err)
	}
	unlock(t, k)
	if n := m.dials.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	noTrace(t, db, other)
}

// An answer that is not one to the question ends the session, which may have the
// lock. Here the question is changed on its way: it locks, and answers nonsense.
func TestSessionAnswerIsNotUnderstood(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	p, through := newProxy(t, dsn)
	db, other := openDB(t, dsn, through), openDB(t, dsn)
	p.rewrite.Store(&[2]string{"asked.slot, s.name", "'nonsense', s.name"})
	key := hashkey.Name("nonsense")
	k, err := sessionlock.New(db).Lock(t.Context(), key)
	if err == nil {
		unlock(t, k)
		t.Fatal("the lock is granted")
	}
	if !strings.Contains(err.Error(), "not one to the question") {
		t.Error(err)
	}
	becomesFree(t, other, key)
	noTrace(t, other, db)
}

// A transaction that somebody has left open in the pool gives its session no
// lock: its ROLLBACK would take the session's settings along. Not every
// wrapper of a driver lets pgx see to that.
func TestSessionTransactionInPool(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(wrapper{stdlib.GetConnector(*config), func(c driver.Conn) driver.Conn { return unwrappable{wrapped{c}} }})
	t.Cleanup(func() { _ = db.Close() })
	other := openDB(t, dsn)
	db.SetMaxOpenConns(1)
	exec(t, db, `begin`)
	pid := number(t, db, `select pg_backend_pid()`)
	k := lock(t, sessionlock.New(db), hashkey.Name("left open"))
	if now := backend(t, k); now == pid {
		t.Error("the lock is held in a transaction of somebody else's")
	}
	sessionEnds(t, other, pid)
	unlock(t, k)
	noTrace(t, other, db)
}

// CockroachDB reports itself in a parameter when the session begins. This
// server does no more than that.
func TestSessionUnsupportedServer(t *testing.T) {
	t.Parallel()
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
