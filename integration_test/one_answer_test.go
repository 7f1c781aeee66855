package integration_test

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// answers counts the answers that are under way on a connection.
type answers struct {
	net.Conn
	most *atomic.Int64

	mu       sync.Mutex
	started  bool // the startup message, which has no type, is sent
	underWay int64
	sent     []byte // of a message whose rest is to come
	received []byte
}

// oneAtATime has a pool's connections counted; most is the most answers that
// were under way on one of them.
func oneAtATime(most *atomic.Int64) func(*pgx.ConnConfig) {
	return wrapping(func(c net.Conn) net.Conn { return &answers{Conn: c, most: most} })
}

func (c *answers) Write(b []byte) (int, error) {
	c.mu.Lock()
	if c.started {
		c.sent = eachMessage(append(c.sent, b...), func(kind byte) {
			if kind == 'Q' || kind == 'S' {
				c.underWay++
				c.most.Store(max(c.most.Load(), c.underWay))
			}
		})
	}
	c.started = true
	c.mu.Unlock()
	return c.Conn.Write(b)
}

func (c *answers) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.received = eachMessage(append(c.received, b[:n]...), func(kind byte) {
		if kind == 'Z' && c.underWay > 0 { // and not that of the start
			c.underWay--
		}
	})
	return n, err
}

// eachMessage calls f with the type of each whole message, and returns the rest.
func eachMessage(stream []byte, f func(kind byte)) []byte {
	for len(stream) >= 5 {
		length := 1 + int(binary.BigEndian.Uint32(stream[1:]))
		if len(stream) < length {
			break
		}
		f(stream[0])
		stream = stream[length:]
	}
	return stream
}

// No message is sent before the answer to the one before is there.
func TestOneAnswerUnderWay(t *testing.T) {
	t.Parallel()
	direct := newDatabase(t)
	for route, dsn := range map[string]string{"direct": direct, "PgBouncer": pgtest.Bouncer(t, direct, "transaction")} {
		t.Run(route, func(t *testing.T) {
			var most atomic.Int64
			db := openDB(t, dsn, oneAtATime(&most), func(c *pgx.ConnConfig) { c.DefaultQueryExecMode = pgx.QueryExecModeExec })
			exec(t, db, `create table if not exists t (n int)`)
			for _, isolation := range isolations {
				l := xactlock.New(db).With(xactlock.Options{Isolation: isolation})
				err := parallel(8, func(i int) error {
					for range 10 {
						if err := l.WithTx(t.Context(), hashkey.Int64(int64(i%2)), insert); err != nil && !isSerializationFailure(err) {
							return err
						}
						if _, err := l.Exec(t.Context(), hashkey.Int64(int64(i%2)), `insert into t values ($1)`, i); err != nil && !isSerializationFailure(err) {
							return err
						}
					}
					return nil
				})
				if err != nil {
					t.Errorf("%v: %v", isolation, err)
				}
			}
			if n := most.Load(); n != 1 {
				t.Errorf("%d answers were under way on one connection, want 1", n)
			}
		})
	}
}

// isSerializationFailure reports whether err is one that a holder may see behind
// a pooler, at SERIALIZABLE.
func isSerializationFailure(err error) bool {
	var state interface{ SQLState() string }
	return errors.As(err, &state) && state.SQLState() == "40001"
}

// mortal has a pool's connections die at a random moment of their use.
var mortal = wrapping(func(c net.Conn) net.Conn { return &mortalConn{Conn: c, left: 10 + rand.IntN(40)} })

type mortalConn struct {
	net.Conn
	left int // writes
}

// Close is net.Conn's. It may come after the connection has died.
func (c *mortalConn) Close() error {
	_ = c.Conn.Close()
	return nil
}

func (c *mortalConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if c.left--; c.left == 0 { // the message is on its way, and its answer will find nobody
		time.AfterFunc(time.Duration(rand.IntN(1500))*time.Microsecond, func() { c.Conn.Close() })
	}
	return n, err
}

// Behind PgBouncer, with SERIALIZABLE among the calls and clients that die, what
// a call says is what happened: no answer of a client that is gone reaches
// another. No lock is left behind, and no connection in use.
func TestClientsDieBehindPgBouncer(t *testing.T) {
	t.Parallel()
	direct := newDatabase(t)
	other := openDB(t, direct)
	exec(t, other, `create table counters (k int primary key, n int); insert into counters select k, 0 from generate_series(0, 2) k`)
	db := openDB(t, pgtest.Bouncer(t, direct, "transaction"), mortal, func(c *pgx.ConnConfig) { c.DefaultQueryExecMode = pgx.QueryExecModeExec })
	var done, unknown [3]atomic.Int64
	const increment = `update counters set n = n + 1 where k = $1`
	levels := []sql.IsolationLevel{sql.LevelDefault, sql.LevelRepeatableRead, sql.LevelSerializable}
	_ = parallel(12, func(i int) error {
		for n := range stress(2000) / 12 {
			k := (i + n) % 3
			key := hashkey.Int64(int64(k))
			l := xactlock.New(db).With(xactlock.Options{Isolation: levels[n%len(levels)]})
			var err error
			if n%2 == 0 {
				_, err = l.Exec(t.Context(), key, increment, k)
			} else {
				err = l.WithTx(t.Context(), key, func(ctx context.Context, tx *sql.Tx) error {
					_, err := tx.ExecContext(ctx, increment, k)
					return err
				})
			}
			switch {
			case err == nil:
				done[k].Add(1)
			case errors.Is(err, xactlock.ErrCommitUnknown):
				unknown[k].Add(1)
			}
		}
		return nil
	})
	noTrace(t, other, db)
	for k := range done {
		n := int64(number(t, other, fmt.Sprintf(`select n from counters where k = %d`, k)))
		if least, most := done[k].Load(), done[k].Load()+unknown[k].Load(); n < least || n > most {
			t.Errorf("counter %d is %d, after %d increments that were committed and %d of which it is not known", k, n, least, most-least)
		}
	}
}
