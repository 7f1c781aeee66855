//go:build unix

package main

import (
	"context"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
)

// A server that accepts connections and says nothing is none, and that is known
// within ten seconds.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0") // which nobody accepts from: the kernel does
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	dsn := "postgres://app:sec!ret@" + listener.Addr().String() + "/db"
	began := time.Now()
	p := start(t, dsn, "job", "touch", "ran")
	p.ends(t, exitNoDatabase)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	got := p.stderr.String()
	if !strings.Contains(got, "no database: ") || !strings.Contains(got, "timeout") || strings.Contains(got, "sec!ret") {
		t.Errorf("stderr: %s", got)
	}
}

// Of several hosts, the last one is reached although the others say nothing.
func TestSilentHosts(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	good := net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))
	if !strings.Contains(dsn, "@"+good) {
		t.Skip("the server is on a socket")
	}
	var hosts []string
	for range 2 {
		listener, err := net.Listen("tcp", "127.0.0.1:0") // which nobody accepts from
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = listener.Close() })
		hosts = append(hosts, listener.Addr().String())
	}
	start(t, strings.Replace(dsn, good, strings.Join(append(hosts, good), ","), 1), "job", "true").ends(t, 0)
}

// A pooler that may give the lock away is refused; --pooler vouches for one
// that does not.
func TestPooler(t *testing.T) {
	dsn := newDatabase(t)
	p := start(t, pgtest.Bouncer(t, dsn, "transaction"), "job", "touch", "ran")
	p.ends(t, exitNoDatabase)
	if got := p.stderr.String(); !strings.Contains(got, "connection pooler") || !strings.Contains(got, "--pooler") {
		t.Errorf("stderr: %s", got)
	}
	start(t, pgtest.Bouncer(t, dsn, "session"), "--pooler", "job", "true").ends(t, 0)
}

// The command that has the lock can create an index concurrently, although
// another one waits for the lock, in slices: it does not ask again and again.
func TestWaiterIsInNobodysWay(t *testing.T) {
	dsn := newDatabase(t)
	db := openDB(t, dsn)
	if _, err := db.Exec(`create table orders (id bigint)`); err != nil {
		t.Fatal(err)
	}
	holder := start(t, dsn, "job", "--", "sh", "-c", `echo $$ >parent; until test -e end; do sleep 0.05; done`)
	holder.pid(t, "parent")
	waiter := start(t, dsn, "job", "true")
	waits(t, db)
	asked := make(map[string]bool)
	for began := time.Now(); time.Since(began) < 2*time.Second; time.Sleep(20 * time.Millisecond) {
		var at string
		if err := db.QueryRow(`select coalesce(max(query_start)::text, '') from pg_stat_activity
			where datname = current_database() and application_name = 'withlock job' and pid not in
			(select pid from pg_locks where locktype = 'advisory' and granted)`).Scan(&at); err != nil {
			t.Fatal(err)
		}
		asked[at] = true
	}
	if n := len(asked); n > 12 { // four slices, and a question where a round of the wait begins
		t.Errorf("it has sent %d messages in two seconds", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience/2)
	defer cancel()
	if _, err := db.ExecContext(ctx, `create index concurrently on orders (id)`); err != nil {
		t.Error(err)
	}
	holder.touch(t, "end")
	holder.ends(t, 0)
	waiter.ends(t, 0)
}

// A statement whose ctx ends is cancelled. It does not take the session along, which
// may hold the lock.
func TestStatementIsCancelled(t *testing.T) {
	t.Parallel()
	db, err := open(&options{db: newDatabase(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := conn.ExecContext(ctx, `select pg_sleep(60)`); err == nil {
		t.Error("the statement is executed")
	}
	if _, err := conn.ExecContext(t.Context(), `select 1`); err != nil {
		t.Errorf("the session is gone: %v", err)
	}
}
