package sqlconn_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/sqlconn"
)

// slow takes a while to connect, and to try a connection.
type slow struct {
	takes, tries time.Duration
	begun, ended atomic.Int64
}

func (s *slow) Connect(ctx context.Context) (driver.Conn, error) {
	s.begun.Add(1)
	select {
	case <-time.After(s.takes):
		s.ended.Add(1)
		return &conn{tries: s.tries}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *slow) Driver() driver.Driver { return nil }

type conn struct {
	driver.Conn
	tries time.Duration
}

func (*conn) Close() error { return nil }

// ResetSession tries whether the connection is alive, as pgx does, which takes
// an end of ctx for the end of the connection.
func (c *conn) ResetSession(ctx context.Context) error {
	select {
	case <-time.After(c.tries):
		return nil
	case <-ctx.Done():
		return driver.ErrBadConn
	}
}

// Callers who have less time than it takes to connect get a connection in the
// end, and none is made in vain.
func TestShortOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &slow{takes: 100 * time.Millisecond}
		db := sql.OpenDB(server)
		defer db.Close()
		p := sqlconn.New(db)
		var got atomic.Int64
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				for range 20 {
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
					switch c, err := p.Conn(ctx); {
					case err == nil:
						got.Add(1)
						time.Sleep(time.Millisecond)
						_ = c.Close()
					case !errors.Is(err, context.DeadlineExceeded):
						t.Error(err)
					}
					cancel()
				}
			})
		}
		all.Wait()
		time.Sleep(time.Second)
		if got.Load() == 0 || server.begun.Load() != server.ended.Load() || server.begun.Load() > 16 {
			t.Errorf("%d connections were got; %d dials were begun, %d made a connection", got.Load(), server.begun.Load(), server.ended.Load())
		}
	})
}

// A caller who has time dials beside others.
func TestEnoughTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := sql.OpenDB(&slow{takes: time.Second})
		defer db.Close()
		p := sqlconn.New(db)
		began := time.Now()
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				c, err := p.Conn(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Minute)
				_ = c.Close()
			})
		}
		all.Wait()
		if d := time.Since(began); d > 62*time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

// An idle connection outlives a caller who has less time than it takes to try
// it, and a driver that does not come back does not keep the caller.
func TestIdleIsTried(t *testing.T) {
	for name, test := range map[string]struct {
		tries, lasts time.Duration
		dials        int64
	}{
		"slow":   {100 * time.Millisecond, 100 * time.Millisecond, 1},
		"silent": {time.Hour, 1010 * time.Millisecond, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &slow{tries: test.tries}
				db := sql.OpenDB(server)
				defer db.Close()
				p := sqlconn.New(db)
				for i := range 2 {
					began := time.Now()
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
					c, err := p.Conn(ctx)
					cancel()
					if i == 0 && err == nil {
						_ = c.Close()
					} else if d := time.Since(began); i == 0 || !errors.Is(err, context.DeadlineExceeded) || d != test.lasts {
						t.Errorf("got %v after %v", err, d)
					}
				}
				c, err := p.Conn(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				_ = c.Close()
				if n := server.ended.Load(); n != test.dials {
					t.Errorf("%d connections were made, want %d", n, test.dials)
				}
			})
		})
	}
}
