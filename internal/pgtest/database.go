package pgtest

import (
	"context"
	"crypto/rand"
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
	name, err := s.createDatabase()
	if err != nil {
		tb.Fatalf("pgtest: create a database: %v", err)
	}
	tb.Cleanup(func() {
		if s.down.Load() {
			return // gone with its server
		}
		if err := s.dropDatabase(name); err != nil {
			tb.Errorf("pgtest: drop the test's database: %v", err)
		}
	})
	return withDatabase(s.dsn, name)
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
