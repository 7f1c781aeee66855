package pgtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// statementTimeout bounds CREATE DATABASE and DROP DATABASE.
const statementTimeout = time.Minute

// Database creates an empty database and returns its DSN. It is dropped at the
// end of the test, sessions that are still open notwithstanding.
func (s *Server) Database(tb testing.TB) string {
	tb.Helper()
	dsn, drop, err := s.CreateDatabase()
	if err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	tb.Cleanup(func() {
		if err := drop(); err != nil {
			tb.Errorf("pgtest: %v", err)
		}
	})
	return dsn
}

// CreateDatabase is [Server.Database] for a package with messages of its own. drop
// drops the database.
func (s *Server) CreateDatabase() (dsn string, drop func() error, err error) {
	name, err := s.createDatabase()
	if err != nil {
		return "", nil, fmt.Errorf("create a database on %s: %w", s, err)
	}
	drop = func() error {
		if s.down.Load() {
			return nil // gone with its server
		}
		if err := s.dropDatabase(name); err != nil {
			return fmt.Errorf("drop the test's database: %w", err)
		}
		return nil
	}
	return withDatabase(s.dsn, name), drop, nil
}

func (s *Server) createDatabase() (string, error) {
	name := "pgtest_" + strings.ToLower(rand.Text()[:12])
	// template0 never has a session, which would stop it from being copied.
	return name, s.exec("create database " + name + " template template0")
}

func (s *Server) dropDatabase(name string) error {
	return s.exec("drop database if exists " + name + " with (force)")
}

func (s *Server) exec(sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), statementTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}
