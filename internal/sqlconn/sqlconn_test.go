package sqlconn_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"runtime"
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
// end, and none is made in vain: many at first, and then one by one.
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
		if got.Load() == 0 || server.begun.Load() != server.ended.Load() || server.begun.Load() > 2*16 {
			t.Errorf("%d connections were got; %d dials were begun, %d made a connection", got.Load(), server.begun.Load(), server.ended.Load())
		}
	})
}

// Where there is time to connect, though little, callers dial beside each other.
func TestShortTimeIsEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := sql.OpenDB(&slow{takes: 100 * time.Millisecond})
		defer db.Close()
		p := sqlconn.New(db)
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				c, err := p.Conn(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Minute)
				_ = c.Close()
			})
		}
		all.Wait()
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

// hooked calls a hook as it connects, as pgx calls those of its config. Its
// connections call it whenever they are taken again.
type hooked struct{ hook func() }

func (h *hooked) Connect(context.Context) (driver.Conn, error) {
	h.hook()
	return &hookedConn{h: h}, nil
}
func (h *hooked) Driver() driver.Driver { return nil }

type hookedConn struct {
	driver.Conn
	h *hooked
}

func (*hookedConn) Close() error { return nil }

func (c *hookedConn) ResetSession(context.Context) error { c.h.hook(); return nil }

// ended says how a call of Conn has ended.
func ended(p *sqlconn.Pool, ctx context.Context) (how string) {
	returned, done := false, make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			switch value := recover(); {
			case value != nil:
				how = fmt.Sprint("panic: ", value)
			case !returned:
				how = "the goroutine has ended"
			}
		}()
		c, err := p.Conn(ctx)
		returned = true
		if how = fmt.Sprint(err); err == nil {
			_ = c.Close()
		}
	}()
	<-done
	return how
}

// What a hook does to the goroutine that connects, it does to the caller,
// whatever time that has, and to no later caller.
func TestHookEndsTheCall(t *testing.T) {
	for name, test := range map[string]struct {
		hook func()
		want string
	}{
		"panic":  {func() { panic("hook") }, "panic: hook"},
		"Goexit": {runtime.Goexit, "the goroutine has ended"},
	} {
		for _, has := range []time.Duration{time.Second, time.Hour} {
			for _, idle := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%v/idle %t", name, has, idle), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						none := func() {}
						server := &hooked{hook: none}
						db := sql.OpenDB(server)
						defer db.Close()
						p := sqlconn.New(db)
						call := func() string {
							ctx, cancel := context.WithTimeout(t.Context(), has)
							defer cancel()
							return ended(p, ctx)
						}
						if idle && call() != "<nil>" {
							t.Fatal("no connection")
						}
						for range 2 {
							server.hook = test.hook
							if got := call(); got != test.want {
								t.Errorf("got %s, want %s", got, test.want)
							}
							server.hook = none
							if got := call(); got != "<nil>" {
								t.Errorf("the next call: got %s", got)
							}
						}
					})
				})
			}
		}
	}
}

// A dial that hangs keeps its own caller, and no other one.
func TestDialHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int64
		db := sql.OpenDB(&hooked{hook: func() {
			if dials.Add(1) == 1 {
				time.Sleep(time.Hour)
			}
		}})
		defer db.Close()
		p := sqlconn.New(db)
		for _, want := range []string{"context deadline exceeded", "<nil>"} {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			if got := ended(p, ctx); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			cancel()
		}
		time.Sleep(2 * time.Hour) // the dial is over
	})
}

// A panic of a dial whose caller has gone reaches no other caller.
func TestPanicOfAnAbandonedDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		server := &hooked{hook: func() {
			if dials++; dials == 1 {
				time.Sleep(100 * time.Millisecond)
				panic("late")
			}
		}}
		db := sql.OpenDB(server)
		defer db.Close()
		p := sqlconn.New(db)
		for _, call := range []struct {
			has  time.Duration
			want string
		}{
			{10 * time.Millisecond, "context deadline exceeded"}, {time.Second, "<nil>"},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), call.has)
			if got := ended(p, ctx); got != call.want {
				t.Errorf("got %s, want %s", got, call.want)
			}
			cancel()
			time.Sleep(time.Second) // the dial is over
		}
	})
}

// A panic of a caller that gets the connection which an abandoned dial has made
// keeps no other from dialing.
func TestPanicAfterAnAbandonedDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		server := &hooked{}
		server.hook = func() {
			if dials++; dials == 2 {
				panic("taken again")
			}
			time.Sleep(100 * time.Millisecond)
		}
		db := sql.OpenDB(server)
		defer db.Close()
		p := sqlconn.New(db)
		gone, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if got := ended(p, gone); got != "context deadline exceeded" {
			t.Errorf("the first call: %s", got)
		}
		for _, want := range []string{"panic: taken again", "<nil>"} {
			if got := ended(p, ctx); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	})
}
