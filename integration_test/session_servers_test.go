package integration_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"net"
	"strings"
	"testing"

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
