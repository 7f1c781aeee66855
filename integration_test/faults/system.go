package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
)

// maxLocks and maxConnections make a lock table, and a server, that can be
// filled.
const (
	maxConnections = 120
	maxLocks       = 40
)

// A system is what the workers talk to: PostgreSQL, PgBouncer in transaction
// mode in front of it, and a proxy on each way.
type system struct {
	server  *pgtest.Server
	bouncer *pgtest.PgBouncer
	direct  *proxy // in front of PostgreSQL, for workers
	behind  *proxy // in front of PostgreSQL, for PgBouncer
	pooled  *proxy // in front of PgBouncer

	mu    sync.Mutex // held for as long as the admin's connection, or the server, is in use by a fault
	admin *pgx.Conn  // guarded by mu; nil or dead: to be made anew
}

// startSystem starts all, with an empty schema.
func startSystem(ctx context.Context) (s *system, err error) {
	s = new(system)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	s.server, err = pgtest.Start(ctx, fmt.Sprintf("max_connections = %d", maxConnections),
		fmt.Sprintf("max_locks_per_transaction = %d", maxLocks), "checkpoint_timeout = 30")
	if err != nil {
		return s, err
	}
	if s.direct, err = proxyTo(s.server.DSN()); err != nil {
		return s, err
	}
	if s.behind, err = proxyTo(s.server.DSN()); err != nil {
		return s, err
	}
	// By default PgBouncer does not connect again for 15 seconds.
	s.bouncer, err = pgtest.StartBouncer(ctx, through(s.server.DSN(), s.behind), "transaction", "server_login_retry = 1", "default_pool_size = 16")
	if err != nil {
		return s, err
	}
	if s.pooled, err = proxyTo(s.bouncer.DSN()); err != nil {
		return s, err
	}
	return s, s.schema(ctx)
}

func proxyTo(dsn string) (*proxy, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	return newProxy(int(config.Port))
}

// through is the DSN of the same database through a proxy.
func through(dsn string, p *proxy) string {
	u, err := url.Parse(dsn)
	if err != nil {
		panic(err) // pgtest's own
	}
	u.Host = net.JoinHostPort(u.Hostname(), strconv.Itoa(p.port()))
	return u.String()
}

func (s *system) directDSN() string { return through(s.server.DSN(), s.direct) }
func (s *system) pooledDSN() string { return through(s.bouncer.DSN(), s.pooled) }
func (s *system) proxies() []*proxy { return []*proxy{s.direct, s.behind, s.pooled} }

// schema makes a register and a chain for each key, each a table of its own, so
// that the serializable transactions of different keys have nothing in common,
// and a row of fences for each key that has tokens.
func (s *system) schema(ctx context.Context) error {
	var text strings.Builder
	for key := range registers {
		fmt.Fprintf(&text, `create table register_%[1]d (a bigint not null, b bigint not null) with (fillfactor = 10);
			insert into register_%[1]d values (0, 0);
			create table chain_%[1]d (n bigint not null, op bigint not null, token bigint not null);
			create index on chain_%[1]d (n);`, key)
	}
	fmt.Fprintf(&text, `create table fences (key int primary key, token bigint not null, writes bigint not null) with (fillfactor = 10);
		insert into fences select key, 0, 0 from generate_series(0, %d) key`, firstLead+leadKeys)
	return s.administer(ctx, func(admin *pgx.Conn) error {
		_, err := admin.Exec(ctx, text.String())
		return err
	})
}

// administer calls f with a connection that no fault is meant for.
func (s *system) administer(ctx context.Context, f func(admin *pgx.Conn) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.administerLocked(ctx, f)
}

func (s *system) administerLocked(ctx context.Context, f func(admin *pgx.Conn) error) error {
	if s.admin == nil || s.admin.Ping(ctx) != nil { // a crash of the server ends it, too
		config, err := pgx.ParseConfig(s.server.DSN())
		if err != nil {
			return err
		}
		config.RuntimeParams["application_name"] = adminName
		if s.admin, err = pgx.ConnectConfig(ctx, config); err != nil {
			return err
		}
	}
	return f(s.admin)
}

const adminName = "faults admin"

// exclusively has f stop and start the server, and no other fault ask it
// anything meanwhile.
func (s *system) exclusively(f func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.admin != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.admin.Close(ctx) // it is gone in any case
		s.admin = nil
	}
	return f()
}

// close ends all that was started.
func (s *system) close() error {
	var errs []error
	if s.admin != nil {
		errs = append(errs, s.admin.Close(context.Background()))
	}
	if s.pooled != nil {
		errs = append(errs, s.pooled.close())
	}
	if s.bouncer != nil {
		errs = append(errs, s.bouncer.Close())
	}
	for _, p := range []*proxy{s.direct, s.behind} {
		if p != nil {
			errs = append(errs, p.close())
		}
	}
	if s.server != nil {
		errs = append(errs, s.server.Close())
	}
	return errors.Join(errs...)
}
