package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
)

// rows is how many accounts there are: one for each goroutine that updates
// its own.
const rows = 64

const updateSQL = "update accounts set balance = balance + 1 where id = $1"

// schema is the table that the UPDATEs go to, with room on each page for the
// new versions of its rows, and the table of the stand-in for cirello.io/pglock.
const schema = `
create table accounts (id bigint primary key, balance bigint not null) with (fillfactor = 10);
create table locks (name varchar(255) primary key, record_version_number bigint, data bytea, owner varchar(255));
create sequence locks_rvn owned by locks.record_version_number;`

// server is the one server of the run.
type server struct {
	process *pgtest.Server
	config  *pgx.ConnConfig
	version string
}

func startServer(ctx context.Context) (*server, error) {
	process, err := pgtest.Start(ctx, "max_connections = 300")
	if err != nil {
		return nil, err
	}
	s := &server{process: process}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(err, process.Close())
	}
	return s, nil
}

func (s *server) prepare(ctx context.Context) (err error) {
	if s.config, err = pgx.ParseConfig(s.process.DSN()); err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, s.config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	if _, err := conn.Exec(ctx, schema); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "insert into accounts select id, 0 from generate_series(0, $1 - 1) id", rows); err != nil {
		return err
	}
	return conn.QueryRow(ctx, "show server_version").Scan(&s.version)
}

func (s *server) close() error { return s.process.Close() }

// A place is where one measurement happens: the server, and the way to it.
type place struct {
	config  *pgx.ConnConfig
	workers int     // goroutines that a competitor must serve at once
	db      *sql.DB // shared by all competitors that need no pool of their own
}

// place returns one with a pool of the given size, some latency away.
func (s *server) place(delay time.Duration, workers, pool int, taps ...*tap) *place {
	config := s.config.Copy()
	dial := delaying(dialFunc(config.DialFunc), delay)
	for _, t := range taps {
		dial = t.on(dial)
	}
	config.DialFunc = pgconn.DialFunc(dial)
	p := &place{config: config, workers: workers}
	p.db = p.pool(pool)
	return p
}

// pool opens a pool of database/sql that keeps its connections.
func (p *place) pool(size int) *sql.DB {
	db := stdlib.OpenDB(*p.config)
	db.SetMaxOpenConns(size)
	db.SetMaxIdleConns(size)
	return db
}

func (p *place) close() error { return p.db.Close() }

// fill opens all connections of the place's pool: those that the end of the
// last measurement broke off would else be dialled in the next one.
func (p *place) fill(ctx context.Context) (err error) {
	size := p.db.Stats().MaxOpenConnections
	conns := make([]*sql.Conn, 0, size)
	defer func() {
		for _, conn := range conns {
			err = errors.Join(err, conn.Close())
		}
	}()
	for range size {
		conn, err := p.db.Conn(ctx)
		if err != nil {
			return fmt.Errorf("fill the pool: %w", err)
		}
		conns = append(conns, conn)
		if err := conn.PingContext(ctx); err != nil {
			return fmt.Errorf("fill the pool: %w", err)
		}
	}
	return nil
}
