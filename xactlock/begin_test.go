package xactlock_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

var errBegin = errors.New("there is no transaction to be had")

// refusing is a driver whose connections begin no transaction.
type refusing struct{ begin func() error }

func (r refusing) Connect(context.Context) (driver.Conn, error) { return r, nil }
func (refusing) Driver() driver.Driver                          { return nil }
func (refusing) Close() error                                   { return nil }
func (refusing) Prepare(string) (driver.Stmt, error)            { return nil, driver.ErrSkip }
func (r refusing) Begin() (driver.Tx, error)                    { return nil, r.begin() }
func (r refusing) BeginTx(context.Context, driver.TxOptions) (driver.Tx, error) {
	return nil, r.begin()
}

// counting is a context that counts those who wait for its end.
type counting struct {
	context.Context
	waiting atomic.Int64
}

func (c *counting) AfterFunc(func()) (stop func() bool) {
	c.waiting.Add(1)
	return func() bool { c.waiting.Add(-1); return true }
}

// A BEGIN that fails or panics ends the call, and leaves nothing at ctx, which may be
// the whole program's.
func TestBeginFails(t *testing.T) {
	for name, begin := range map[string]func() error{
		"an error": func() error { return errBegin },
		"a panic":  func() error { panic(errBegin) },
	} {
		t.Run(name, func(t *testing.T) {
			db := sql.OpenDB(refusing{begin})
			defer db.Close()
			ctx := &counting{Context: t.Context()}
			ended := make(chan any, 1)
			go func() {
				var err error
				defer func() {
					if value := recover(); value != nil {
						ended <- value
					} else {
						ended <- err
					}
				}()
				err = xactlock.New(db).WithTx(ctx, hashkey.Name("k"), unreachable(t))
			}()
			select {
			case how := <-ended:
				if err, ok := how.(error); !ok || !errors.Is(err, errBegin) {
					t.Errorf("it ended by %v", how)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("the call hangs")
			}
			if n := ctx.waiting.Load(); n != 0 {
				t.Errorf("%d wait for the end of ctx", n)
			}
		})
	}
}
