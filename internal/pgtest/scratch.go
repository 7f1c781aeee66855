package pgtest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// sessionsTimeout bounds the wait for a test's sessions to end after it. The
// driver may take a while to close a connection that it has given up.
const sessionsTimeout = 30 * time.Second

// Scratch is [Server.Database] for packages with hundreds of tests: the
// database is empty, but another test may have used it before, because to
// clear one is much quicker than to create one. Schemas, what is in them, and
// the database's settings are cleared, also those for the role of DSN alone. A
// test that changes rights on what is the system's fails: it needs [Server.Database].
//
// At the end of the test no session may be left: one that is still there half
// a minute later fails the test.
func (s *Server) Scratch(tb testing.TB) string {
	tb.Helper()
	d, err := s.takeScratch()
	if err != nil {
		tb.Fatalf("pgtest: create a database: %v", err)
	}
	tb.Cleanup(func() {
		if s.down.Load() {
			return
		}
		if err := s.clear(d); err != nil {
			tb.Errorf("pgtest: clear the test's database: %v", err)
			return // not to be used again
		}
		s.scratch.mu.Lock()
		defer s.scratch.mu.Unlock()
		s.scratch.free = append(s.scratch.free, d)
	})
	return withDatabase(s.dsn, d.name)
}

func (s *Server) takeScratch() (*scratchDatabase, error) {
	s.scratch.mu.Lock()
	defer s.scratch.mu.Unlock()
	if last := len(s.scratch.free) - 1; last >= 0 {
		d := s.scratch.free[last]
		s.scratch.free = s.scratch.free[:last]
		return d, nil
	}
	name, err := s.createDatabase()
	if err != nil {
		return nil, err
	}
	d := &scratchDatabase{name: name}
	s.scratch.all = append(s.scratch.all, d)
	return d, nil
}

const clearSQL = `
do $clear$
declare name text;
begin
	for name in select nspname from pg_catalog.pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema' loop
		execute format('drop schema %I cascade', name);
	end loop;
	create schema public;
	grant all on schema public to public;
	execute format('alter database %I reset all', current_database());
	execute format('alter role current_user in database %I reset all', current_database());
	select relname into name from pg_catalog.pg_class left join pg_catalog.pg_init_privs
		on classoid = 'pg_catalog.pg_class'::regclass and objoid = pg_class.oid and objsubid = 0
		where relnamespace = 'pg_catalog'::regnamespace and relacl is distinct from initprivs;
	if found then
		raise exception 'the rights on % are not as they were', name;
	end if;
	select proname into name from pg_catalog.pg_proc left join pg_catalog.pg_init_privs
		on classoid = 'pg_catalog.pg_proc'::regclass and objoid = pg_proc.oid
		where pronamespace = 'pg_catalog'::regnamespace and proacl is distinct from initprivs;
	if found then
		raise exception 'the rights on % are not as they were', name;
	end if;
end $clear$`

const sessionsSQL = `
select coalesce(string_agg(format('%s (%s: %s)', pid, state, query), ', '), '')
from pg_catalog.pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'`

// clear empties a database, once its sessions are gone.
func (s *Server) clear(d *scratchDatabase) error {
	ctx, cancel := context.WithTimeout(context.Background(), sessionsTimeout)
	defer cancel()
	conn, err := s.cleaner(ctx, d)
	if err != nil {
		return err
	}
	for {
		var sessions string
		if err := conn.QueryRow(ctx, sessionsSQL).Scan(&sessions); err != nil {
			return err
		}
		if sessions == "" {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("after %v there are still sessions: %s", sessionsTimeout, sessions)
		case <-time.After(2 * time.Millisecond):
		}
	}
	_, err = conn.Exec(ctx, clearSQL)
	return err
}

// cleaner returns d's own connection.
func (s *Server) cleaner(ctx context.Context, d *scratchDatabase) (*pgx.Conn, error) {
	if d.conn != nil && d.conn.Ping(ctx) == nil { // a test may have ended all sessions
		return d.conn, nil
	}
	config, err := pgx.ParseConfig(withDatabase(s.dsn, d.name))
	if err != nil {
		return nil, err
	}
	// The settings to be cleared must not be in force meanwhile.
	config.RuntimeParams["search_path"] = "pg_catalog"
	config.RuntimeParams["statement_timeout"] = "0"
	config.RuntimeParams["lock_timeout"] = "0"
	config.RuntimeParams["idle_session_timeout"] = "0"
	d.conn, err = pgx.ConnectConfig(ctx, config)
	return d.conn, err
}

// closeCleaners closes the connections that clear databases, once the tests are
// over. A write that was slow has left a goroutine of pgx's behind on one, until
// something is read there: the tests would seem to have leaked it.
func (s *Server) closeCleaners() {
	ctx, cancel := context.WithTimeout(context.Background(), sessionsTimeout)
	defer cancel()
	for _, d := range s.scratch.all {
		if d.conn != nil {
			_ = d.conn.Close(ctx) // an error leaves it closed too
		}
	}
}

// dropScratch drops the databases, on a server that goes on.
func (s *Server) dropScratch() error {
	var errs []error
	for _, d := range s.scratch.all {
		errs = append(errs, s.dropDatabase(d.name))
	}
	return errors.Join(errs...)
}
