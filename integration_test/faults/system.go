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
	nodes   []node // a primary, and its standby if there is one
	bouncer *pgtest.PgBouncer
	behind  *proxy // in front of the primary, for PgBouncer
	pooled  *proxy // in front of PgBouncer

	mu      sync.Mutex // held for as long as the admin's connection, or a server, is in use by a fault
	primary int        // guarded by mu, and changed by the nemesis alone: which of nodes it is
	admin   *pgx.Conn  // guarded by mu; nil or dead: to be made anew
}

// A node is a PostgreSQL.
type node struct {
	server *pgtest.Server
	direct *proxy // in front of it, for workers
}

// startSystem starts all, with an empty schema.
func startSystem(ctx context.Context, standby bool) (s *system, err error) {
	s = new(system)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := s.startServers(ctx, standby); err != nil {
		return s, err
	}
	if s.behind, err = proxyTo(s.server().DSN()); err != nil {
		return s, err
	}
	// By default PgBouncer does not connect again for 15 seconds.
	s.bouncer, err = pgtest.StartBouncer(ctx, through(s.server().DSN(), s.behind), "transaction", "server_login_retry = 1", "default_pool_size = 16")
	if err != nil {
		return s, err
	}
	if s.pooled, err = proxyTo(s.bouncer.DSN()); err != nil {
		return s, err
	}
	return s, s.schema(ctx)
}

// startServers starts the primary, and a standby. Replication is synchronous, so
// that what was acknowledged is there after a promotion: a primary without its
// standby commits nothing.
func (s *system) startServers(ctx context.Context, standby bool) error {
	settings := []string{
		fmt.Sprintf("max_connections = %d", maxConnections), fmt.Sprintf("max_locks_per_transaction = %d", maxLocks),
		"checkpoint_timeout = 30",
	}
	if standby {
		settings = append(settings, "synchronous_standby_names = '*'", "wal_keep_size = 64MB", "wal_retrieve_retry_interval = 100ms")
	}
	primary, err := pgtest.Start(ctx, settings...)
	if err != nil {
		return err
	}
	if err := s.add(primary); err != nil || !standby {
		return err
	}
	other, err := primary.StartStandby(ctx)
	if err != nil {
		return err
	}
	return s.add(other)
}

func (s *system) add(server *pgtest.Server) error {
	direct, err := proxyTo(server.DSN())
	s.nodes = append(s.nodes, node{server, direct})
	return err
}

func proxyTo(dsn string) (*proxy, error) { return newProxy(portOf(dsn)) }

// portOf is the port of one of pgtest's DSNs.
func portOf(dsn string) int {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		panic(err)
	}
	return int(config.Port)
}

// through is the DSN of the same database through a proxy.
func through(dsn string, p *proxy) string { return atPorts(dsn, p.port()) }

// atPorts is a DSN of pgtest's at other ports of 127.0.0.1.
func atPorts(dsn string, ports ...int) string {
	u, err := url.Parse(dsn)
	if err != nil {
		panic(err)
	}
	hosts := make([]string, len(ports))
	for i, port := range ports {
		hosts[i] = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	}
	u.Host = strings.Join(hosts, ",")
	return u.String()
}

// wireDSN is that of whichever server is the primary.
func (s *system) wireDSN() string {
	return s.primaryAt(func(n node) int { return portOf(n.server.DSN()) })
}

// directDSN is the same, with faults on the way.
func (s *system) directDSN() string {
	return s.primaryAt(func(n node) int { return n.direct.port() })
}

func (s *system) primaryAt(port func(node) int) string {
	var ports []int
	for _, n := range s.nodes {
		ports = append(ports, port(n))
	}
	dsn := atPorts(s.nodes[0].server.DSN(), ports...)
	if len(ports) > 1 {
		dsn += "&target_session_attrs=read-write"
	}
	return dsn
}

func (s *system) pooledDSN() string { return through(s.bouncer.DSN(), s.pooled) }

// server is the primary.
func (s *system) server() *pgtest.Server { return s.nodes[s.primary].server }

// standby is the other server, nil where there is none.
func (s *system) standby() *pgtest.Server {
	if len(s.nodes) == 1 {
		return nil
	}
	return s.nodes[1-s.primary].server
}

func (s *system) proxies() []*proxy { return []*proxy{s.nodes[s.primary].direct, s.behind, s.pooled} }

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
		config, err := pgx.ParseConfig(s.server().DSN())
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
	if s.behind != nil {
		errs = append(errs, s.behind.close())
	}
	for _, n := range s.nodes {
		if n.direct != nil {
			errs = append(errs, n.direct.close())
		}
		errs = append(errs, n.server.Close())
	}
	return errors.Join(errs...)
}
