//go:build unix

package main

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

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
// another one waits for the lock.
func TestWaiterIsInNobodysWay(t *testing.T) {
	dsn := newDatabase(t)
	db := openDB(t, dsn)
	if _, err := db.Exec(`create table orders (id bigint)`); err != nil {
		t.Fatal(err)
	}
	holder := start(t, dsn, "job", "--", "sh", "-c", `echo $$ >parent; until test -e end; do sleep 0.01; done`)
	holder.pid(t, "parent")
	waiter := start(t, dsn, "job", "true")
	waits(t, db)
	ctx, cancel := context.WithTimeout(t.Context(), patience/2)
	defer cancel()
	if _, err := db.ExecContext(ctx, `create index concurrently on orders (id)`); err != nil {
		t.Error(err)
	}
	holder.touch(t, "end")
	holder.ends(t, 0)
	waiter.ends(t, 0)
}
