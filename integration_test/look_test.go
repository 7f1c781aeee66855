package integration_test

import (
	"context"
	"database/sql"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/pgxlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// lookedAt is a hidden socket, which says that it is being read in passing.
type lookedAt struct {
	net.Conn
	looks  chan struct{}
	passes atomic.Bool
}

func (c *lookedAt) SetReadDeadline(d time.Time) error {
	c.passes.Store(!d.IsZero() && time.Until(d) < 10*time.Millisecond)
	return c.Conn.SetReadDeadline(d)
}

func (c *lookedAt) Read(b []byte) (int, error) {
	if c.passes.Load() {
		select {
		case c.looks <- struct{}{}:
			time.Sleep(100 * time.Millisecond) // as on a machine that is busy
		default:
		}
	}
	return c.Conn.Read(b)
}

// fn may take the connection itself at any moment, also in that of a look at it.
// With -race it is enough that there was a look before.
func TestPgxConnDuringALook(t *testing.T) {
	t.Parallel()
	config, err := pgx.ParseConfig(newDatabase(t))
	wantNoError(t, err)
	looks := make(chan struct{})
	wrapping(func(c net.Conn) net.Conn { return &lookedAt{Conn: c, looks: looks} })(config)
	err = pgxlock.New(openPool(t, config)).WithTx(bounded(t), key, func(ctx context.Context, tx pgx.Tx) error {
		received(t, "the connection is looked at", looks)
		_, err := tx.Conn().Exec(ctx, `select 1`)
		return err
	})
	if err != nil {
		t.Errorf("fn's own use of the connection: %v", err)
	}
}

// Rule 3: fn is told whether or not a statement runs. One that is only prepared does
// not.
func TestHolderIsToldBesideAPreparedStatement(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	watcher := openDB(t, dsn)
	db := openDB(t, dsn, opaque)
	err := xactlock.New(db).WithTx(t.Context(), key, func(ctx context.Context, tx *sql.Tx) error {
		pid := number(t, tx, `select pg_backend_pid()`)
		if _, err := tx.PrepareContext(ctx, `select 1`); err != nil {
			return err
		}
		exec(t, watcher, `select pg_terminate_backend($1)`, pid)
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second):
			t.Error("after 10 s fn is not told that its session is gone")
		}
		return nil
	})
	wantError(t, err, xactlock.ErrLost)
}
