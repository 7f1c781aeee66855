package integration_test

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pgadvisory/pgadvisory/pgxlock"
)

// pgxStage is a pool of one connection on a database with an empty table t (n int),
// and another pool.
type pgxStage struct {
	pool    *pgxpool.Pool
	l       *pgxlock.Locker
	watcher *sql.DB
	meter   *meter
	tracer  *traced
}

func newPgxStage(t *testing.T, options ...func(*pgxpool.Config)) *pgxStage {
	t.Helper()
	s := &pgxStage{watcher: newDB(t), meter: new(meter), tracer: new(traced)}
	exec(t, s.watcher, `create table t (n int)`)
	config, err := pgx.ParseConfig(dsnOf(t, s.watcher))
	if err != nil {
		t.Fatal(err)
	}
	s.meter.on(config)
	config.Tracer = s.tracer
	s.pool = openPool(t, config, append(options, func(c *pgxpool.Config) { c.MaxConns = 1 })...)
	s.l = pgxlock.New(s.pool)
	return s
}

// keepsItsConnection checks that f leaves no lock, and the pool's one connection
// as it was.
func (s *pgxStage) keepsItsConnection(t *testing.T, f func()) {
	t.Helper()
	session := func() (pid int) {
		if err := s.pool.QueryRow(t.Context(), `select pg_backend_pid()`).Scan(&pid); err != nil {
			t.Fatal(err)
		}
		return pid
	}
	before := session()
	f()
	if n := s.pool.Stat().AcquiredConns(); n != 0 {
		t.Errorf("%d connections are in use", n)
	}
	if now := session(); now != before {
		t.Errorf("session %d became %d", before, now)
	}
	noTrace(t, s.watcher)
}

// losesItsConnection calls f, which may cost the pool its connection.
func (s *pgxStage) losesItsConnection(t *testing.T, f func()) {
	t.Helper()
	f()
	until(t, "no connection is in use", func() bool { return s.pool.Stat().AcquiredConns() == 0 })
	noTrace(t, s.watcher)
}

// traced is a tracer of pgx's that writes down what it is told.
type traced struct {
	mu   sync.Mutex
	told []string // guarded by mu
}

type spanKey struct{}

func (tr *traced) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	return context.WithValue(ctx, spanKey{}, fmt.Sprintf("%v> %s", ctx.Value(spanKey{}), d.SQL))
}

func (tr *traced) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryEndData) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.told = append(tr.told, fmt.Sprintf("%v: %s %s", ctx.Value(spanKey{}), d.CommandTag, sqlState(d.Err)))
}

// during returns what the tracer is told while f runs.
func (tr *traced) during(f func()) []string {
	tr.mu.Lock()
	tr.told = nil
	tr.mu.Unlock()
	f()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.told
}
