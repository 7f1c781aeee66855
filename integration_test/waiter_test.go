package integration_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// distant has each write of a pool's connections arrive late: a server that is
// far away. Cancel requests go the same way.
func distant(delay time.Duration) func(*pgx.ConnConfig) {
	return wrapping(func(c net.Conn) net.Conn {
		time.Sleep(delay)
		return &distantConn{c, delay}
	})
}

type distantConn struct {
	net.Conn
	delay time.Duration // there and back
}

func (c *distantConn) Write(b []byte) (int, error) {
	time.Sleep(c.delay)
	return c.Conn.Write(b)
}

// A wait that ends costs no connection, also if the server is far away.
func TestWaitEndsFarAway(t *testing.T) {
	t.Parallel()
	direct := newDatabase(t)
	var m meter
	far := openMetered(t, direct, &m, distant(200*time.Millisecond))
	far.SetMaxOpenConns(1)
	near := openDB(t, direct)
	exec(t, near, `create table t (n int)`)
	h := hold(t, xactlock.New(near), hashkey.Name("k"))
	for name, o := range map[string]xactlock.Options{"read committed": {}, "serializable": {Isolation: sql.LevelSerializable}} {
		for call, wait := range map[string]func(context.Context, *xactlock.Locker) error{
			"WithTx": func(ctx context.Context, l *xactlock.Locker) error {
				return l.WithTx(ctx, hashkey.Name("k"), unreachable(t))
			},
			"Exec": func(ctx context.Context, l *xactlock.Locker) error {
				_, err := l.Exec(ctx, hashkey.Name("k"), `insert into t values (1)`)
				return err
			},
		} {
			t.Run(name+"/"+call, func(t *testing.T) {
				l := xactlock.New(far).With(o)
				keepsConnection(t, far, func() {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					if err := wait(ctx, l); !errors.Is(err, xactlock.ErrNotAcquired) {
						t.Errorf("a deadline: got %v", err)
					}
					ctx, cancel = context.WithCancel(t.Context())
					go func() {
						until(t, "it waits on the server", func() bool { return waitingLocks(t, near) == 1 })
						cancel()
					}()
					if err := wait(ctx, l); !errors.Is(err, xactlock.ErrNotAcquired) {
						t.Errorf("a cancel: got %v", err)
					}
				})
			})
		}
	}
	if err := h.release(); err != nil {
		t.Error(err)
	}
}

// serverLog returns a pool on a server of the test's own, and what counts the
// lines of its log that have a text.
func serverLog(t *testing.T) (db *sql.DB, count func(text string) int) {
	t.Helper()
	server := pgtest.Dedicated(t)
	return openDB(t, server.DSN()), func(text string) int {
		log, err := server.Log()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(log, text)
	}
}

// Waits leave the server's log alone: an Exec that waits for short holders
// writes nothing, and a call that waits for long at most one line; a refusal is no
// warning. A statement that was prepared by a wait which timed out is not prepared
// again.
func TestWaitsInTheLog(t *testing.T) {
	t.Parallel()
	db, count := serverLog(t)
	other := openSame(t, db)
	exec(t, db, `create table t (n int)`)
	l, key := xactlock.New(db), hashkey.Name("k")
	var over atomic.Bool
	busy := make(chan error, 1)
	go func() {
		busy <- parallel(2, func(int) error {
			for !over.Load() {
				if err := xactlock.New(other).WithTx(t.Context(), key, func(context.Context, *sql.Tx) error {
					time.Sleep(60 * time.Millisecond)
					return nil
				}); err != nil {
					return err
				}
			}
			return nil
		})
	}()
	long := 0 // waits, as on a machine that is busy with other things
	for range 20 {
		began := time.Now()
		if _, err := l.Exec(t.Context(), key, `insert into t values ($1)`, 1); err != nil {
			t.Fatal(err)
		}
		if time.Since(began) > 450*time.Millisecond {
			long++
		}
	}
	over.Store(true)
	if err := <-busy; err != nil {
		t.Error(err)
	}
	if n := count("ERROR"); n > long {
		t.Errorf("%d errors in the log after Execs that waited for short holders, and %d that waited for long", n, long)
	}
	for name, wait := range map[string]func(context.Context, *xactlock.Locker) error{
		"WithTx": func(ctx context.Context, l *xactlock.Locker) error { return l.WithTx(ctx, key, nothing) },
		"Exec": func(ctx context.Context, l *xactlock.Locker) error {
			_, err := l.Exec(ctx, key, `insert into t values ($1)`, 1)
			return err
		},
	} {
		before := count("ERROR")
		h := hold(t, xactlock.New(other), key)
		fresh := openSame(t, db)
		fresh.SetMaxOpenConns(1)
		ctx, cancel := context.WithTimeout(t.Context(), 2200*time.Millisecond)
		if err := wait(ctx, xactlock.New(fresh)); !errors.Is(err, xactlock.ErrNotAcquired) {
			t.Errorf("%s: got %v", name, err)
		}
		cancel()
		if n := count("ERROR") - before; n > 1 {
			t.Errorf("%s: %d lines in the log for one call", name, n)
		}
		if err := h.release(); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := wait(t.Context(), xactlock.New(fresh)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n := count("already exists"); n > 0 {
			t.Errorf("%s: a statement was prepared twice", name)
		}
	}
	warnsOfNothing(t, db, other, count)
}

// warnsOfNothing checks that calls which are refused by the holder of one of two keys
// leave no warning in the log.
func warnsOfNothing(t *testing.T, db, other *sql.DB, count func(text string) int) {
	t.Helper()
	keys := []hashkey.Key{hashkey.Int64(1), hashkey.Int64(2)}
	for path, o := range paths {
		o.Wait = 50 * time.Millisecond
		for i, busy := range keys {
			h := hold(t, xactlock.New(other), busy)
			l, before := xactlock.New(db).With(o), count("WARNING")
			for name, err := range map[string]error{
				"TryWithTx":    l.TryWithTx(t.Context(), busy, nothing),
				"TryWithTxAll": l.TryWithTxAll(t.Context(), keys, nothing),
				"WithTxAll":    l.WithTxAll(t.Context(), keys, nothing),
			} {
				if !errors.Is(err, xactlock.ErrNotAcquired) {
					t.Errorf("%s, %s: got %v", path, name, err)
				}
			}
			if n := count("WARNING") - before; n > 0 {
				t.Errorf("%s, key %d of 2 is busy: %d warnings in the log", path, i+1, n)
			}
			if err := h.release(); err != nil {
				t.Error(err)
			}
		}
	}
}

// wayBack is a wrapper that offers the way back under another name, and has rows
// of its own.
type wayBack struct{ driver.Conn }

func (c *wayBack) WrappedConn() driver.Conn { return c.Conn }

func (c *wayBack) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return c.Conn.(driver.ExecerContext).ExecContext(ctx, query, args)
}

func (c *wayBack) CheckNamedValue(v *driver.NamedValue) error { return nil }

func (c *wayBack) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := c.Conn.(driver.QueryerContext).QueryContext(ctx, query, args)
	if err != nil {
		return nil, err
	}
	return &wayBackRows{rows}, nil
}

type wayBackRows struct{ driver.Rows }

type backWrapper struct{ driver.Connector }

func (w backWrapper) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := w.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &wayBack{conn}, nil
}

// hidden is a wrapper that offers no way back.
type hidden struct{ driver.Connector }

func (h hidden) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := h.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return struct {
		driver.Conn
		driver.ExecerContext
		driver.QueryerContext
		driver.ConnBeginTx
	}{conn, conn.(driver.ExecerContext), conn.(driver.QueryerContext), conn.(driver.ConnBeginTx)}, nil
}

// A wrapper that offers pgx's connection under the name WrappedConn is used as
// pgx is, and its rows end with ctx. Event.Plain and RequirePgx tell of one that
// hides the connection.
func TestWrappers(t *testing.T) {
	t.Parallel()
	direct := newDatabase(t)
	config, err := pgx.ParseConfig(direct)
	if err != nil {
		t.Fatal(err)
	}
	connector := stdlib.GetConnector(*config)
	known, unknown := sql.OpenDB(backWrapper{connector}), sql.OpenDB(hidden{connector})
	for _, db := range []*sql.DB{known, unknown} {
		db.SetMaxOpenConns(1)
		defer db.Close()
	}
	plain := map[bool]bool{}
	observe := func(e xactlock.Event) { plain[e.Plain] = true }
	o := xactlock.Options{RequirePgx: true, Observe: observe}
	if err := xactlock.New(known).With(o).WithTx(t.Context(), hashkey.Name("k"), nothing); err != nil || plain[true] {
		t.Errorf("a wrapper with WrappedConn: %v, plain %t", err, plain[true])
	}
	if err := xactlock.New(unknown).With(o).WithTx(t.Context(), hashkey.Name("k"), unreachable(t)); !errors.Is(err, xactlock.ErrDriver) {
		t.Errorf("a wrapper that hides pgx: got %v, want ErrDriver", err)
	}
	o.RequirePgx = false
	if err := xactlock.New(unknown).With(o).WithTx(t.Context(), hashkey.Name("k"), nothing); err != nil || !plain[true] {
		t.Errorf("a wrapper that hides pgx: %v, plain %t", err, plain[true])
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	read := 0
	err = xactlock.New(known).WithTx(t.Context(), hashkey.Name("k"), func(_ context.Context, tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `select i, pg_sleep(0.02) from generate_series(1, 3000) i`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			read++
		}
		return rows.Err()
	})
	if !errors.Is(err, context.DeadlineExceeded) || read == 3000 {
		t.Errorf("%d rows, %v", read, err)
	}
}

// A statement that is being prepared while fn returns does not outlive the
// transaction.
func TestStatementDoesNotOutliveTheCall(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	db.SetMaxOpenConns(2)
	l := xactlock.New(db)
	err := parallel(4, func(i int) error {
		for n := range stress(100) {
			left := make(chan struct{})
			err := l.WithTx(t.Context(), hashkey.Int64(int64(i)), func(ctx context.Context, tx *sql.Tx) error {
				began := make(chan struct{})
				go func() {
					defer close(left)
					close(began)
					stmt, err := tx.PrepareContext(context.Background(), fmt.Sprintf(`select %d`, n))
					if err != nil {
						return // the transaction was over
					}
					_, _ = stmt.Exec()
					_ = stmt.Close()
				}()
				<-began
				return nil
			})
			<-left
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if n := number(t, db, `select count(*) from pg_prepared_statements where statement ~ '^select \d+$'`); n > 0 {
		t.Errorf("%d statements are left on a connection", n)
	}
}
