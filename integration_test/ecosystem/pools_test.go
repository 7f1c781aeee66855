package ecosystem

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/XSAM/otelsql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/lib/pq"
	"github.com/uptrace/bun/driver/pgdriver"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// closeAfter closes db at the end of the test.
func closeAfter(t *testing.T, db *sql.DB) *sql.DB {
	t.Helper()
	db.SetMaxOpenConns(10)
	db.SetMaxIdleConns(10)
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// openPgx opens a pool of pgx's own driver.
func openPgx(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return closeAfter(t, stdlib.OpenDB(*config))
}

// openPq opens a pool of lib/pq.
func openPq(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	connector, err := pq.NewConnector(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return closeAfter(t, sql.OpenDB(connector))
}

// openPgdriver opens a pool of bun's own driver.
func openPgdriver(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	return closeAfter(t, sql.OpenDB(pgdriver.NewConnector(pgdriver.WithDSN(dsn))))
}

// openPgxpool opens a *sql.DB over a pgxpool, which a program may use both.
func openPgxpool(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	return openMeteredPgxpool(t, dsn, new(atomic.Int64))
}

func openMeteredPgxpool(t *testing.T, dsn string, messages *atomic.Int64) *sql.DB {
	t.Helper()
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 10
	meter(config.ConnConfig, messages)
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	db := closeAfter(t, stdlib.OpenDBFromPool(pool))
	db.SetMaxIdleConns(0) // as the pgxpool keeps them
	return db
}

// openOtel opens a pool of an instrumented pgx.
func openOtel(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	return openTraced(t, dsn, sdktrace.NewTracerProvider(), new(atomic.Int64))
}

func openTraced(t *testing.T, dsn string, provider *sdktrace.TracerProvider, messages *atomic.Int64) *sql.DB {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	meter(config, messages)
	return closeAfter(t, otelsql.OpenDB(stdlib.GetConnector(*config), otelsql.WithTracerProvider(provider)))
}

// meter counts the writes on a connection.
func meter(config *pgx.ConnConfig, messages *atomic.Int64) {
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &meteredConn{conn, messages}, nil
	}
}

type meteredConn struct {
	net.Conn
	messages *atomic.Int64
}

func (c *meteredConn) Write(b []byte) (int, error) {
	c.messages.Add(1)
	return c.Conn.Write(b)
}

func TestLibPq(t *testing.T)    { contract(t, false, openPq) }
func TestPgdriver(t *testing.T) { contract(t, false, openPgdriver) }
func TestPgxpool(t *testing.T)  { contract(t, false, openPgxpool) }
func TestOtelsql(t *testing.T)  { contract(t, false, openOtel) }

// A wrapper that shows no way to the connection in it takes the plain path.
func TestOpaqueWrapper(t *testing.T) {
	contract(t, false, func(t *testing.T, dsn string) *sql.DB {
		config, err := pgx.ParseConfig(dsn)
		if err != nil {
			t.Fatal(err)
		}
		return closeAfter(t, sql.OpenDB(opaque{stdlib.GetConnector(*config)}))
	})
}

// Through PgBouncer in transaction mode. Its sessions have no prepared
// statements before PgBouncer 1.21, which is what the DSN takes care of.
func TestPgxpoolThroughPgBouncer(t *testing.T) {
	contract(t, true, func(t *testing.T, dsn string) *sql.DB {
		return openPgxpool(t, pgtest.Bouncer(t, dsn, "transaction"))
	})
}

// Wrapped or pooled, pgx takes the fast path: two messages for an empty call.
func TestMessages(t *testing.T) {
	for name, open := range map[string]func(t *testing.T, dsn string, messages *atomic.Int64) *sql.DB{
		"pgxpool": openMeteredPgxpool,
		"otelsql": func(t *testing.T, dsn string, messages *atomic.Int64) *sql.DB {
			return openTraced(t, dsn, sdktrace.NewTracerProvider(), messages)
		},
		"pgxpool through PgBouncer": func(t *testing.T, dsn string, messages *atomic.Int64) *sql.DB {
			return openMeteredPgxpool(t, pgtest.Bouncer(t, dsn, "transaction"), messages)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var messages atomic.Int64
			db := open(t, pgtest.New(t).Scratch(t), &messages)
			for _, isolation := range isolations {
				l := xactlock.New(db).With(xactlock.Options{Isolation: isolation})
				fewest := int64(1 << 62)
				for range 10 { // now and then the pool asks whether a connection is alive
					before := messages.Load()
					if err := l.WithTx(t.Context(), key, func(context.Context, *sql.Tx) error { return nil }); err != nil {
						t.Fatal(err)
					}
					fewest = min(fewest, messages.Load()-before)
				}
				if fewest != 2 {
					t.Errorf("%v: %d messages, want 2", isolation, fewest)
				}
			}
		})
	}
}

// On the fast path, fn's statements still go through the wrapper: they are
// traced, beneath the caller's span.
func TestStatementsAreTraced(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	var messages atomic.Int64
	db := openTraced(t, pgtest.New(t).Scratch(t), provider, &messages)
	ctx, caller := provider.Tracer("test").Start(t.Context(), "caller")
	err := xactlock.New(db).WithTx(ctx, key, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `create table traced (n int)`); err != nil {
			return err
		}
		stmt, err := tx.PrepareContext(ctx, `insert into traced values ($1)`)
		if err != nil {
			return err
		}
		if _, err := stmt.ExecContext(ctx, 1); err != nil {
			return err
		}
		var n int
		return tx.QueryRowContext(ctx, `select n from traced where n = $1`, 1).Scan(&n)
	})
	caller.End()
	if err != nil {
		t.Fatal(err)
	}
	var traced []string
	for _, span := range spans.Ended() {
		if span.Parent().SpanID() != caller.SpanContext().SpanID() {
			continue
		}
		for _, attribute := range span.Attributes() {
			if text := attribute.Value.AsString(); strings.Contains(text, "traced") {
				traced = append(traced, span.Name()+": "+text)
			}
		}
	}
	for _, want := range []string{`create table traced`, `insert into traced`, `select n from traced`} {
		if !slices.ContainsFunc(traced, func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("%q is not among the traced statements %q", want, traced)
		}
	}
}

// opaque is a driver that wraps another one and hides it.
type opaque struct{ driver.Connector }

func (o opaque) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := o.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return opaqueConn{conn.(wholeConn)}, nil
}

// wholeConn is what a driver connection can do that matters here.
type wholeConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.NamedValueChecker
	driver.SessionResetter
}

type opaqueConn struct{ wholeConn }

// An fn that leaves its rows open commits with lib/pq as with pgx.
func TestPqRowsLeftOpen(t *testing.T) {
	db := openPq(t, pgtest.New(t).Scratch(t))
	err := xactlock.New(db).WithTx(t.Context(), key, func(ctx context.Context, tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `select generate_series(1, 3)`)
		if err == nil && !rows.Next() {
			t.Error("no row")
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
