package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/pgxlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// noDeadlines is a connection through a tunnel that knows no deadlines, as SSH's.
type noDeadlines struct{ net.Conn }

var errNoDeadlines = errors.New("deadlines are not supported")

func (noDeadlines) SetDeadline(time.Time) error      { return errNoDeadlines }
func (noDeadlines) SetReadDeadline(time.Time) error  { return errNoDeadlines }
func (noDeadlines) SetWriteDeadline(time.Time) error { return errNoDeadlines }

// A holder whose connection cannot be looked at is not told that it is lost, and
// its statements end with their ctx all the same.
func TestConnectionWithoutDeadlines(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	watcher := openDB(t, dsn)
	db := openDB(t, dsn, wrapping(func(c net.Conn) net.Conn { return noDeadlines{c} }))
	key := hashkey.Name("tunnel")
	err := xactlock.New(db).WithTx(t.Context(), key, func(ctx context.Context, tx *sql.Tx) error {
		passes(t, watcher, 2500*time.Millisecond) // two looks
		_, err := tx.ExecContext(ctx, `select 1`)
		return err
	})
	if err != nil {
		t.Errorf("a holder that works for long: %v", err)
	}

	ended := make(chan error, 1)
	var pid int
	go func() {
		ended <- xactlock.New(db).WithTx(bounded(t), key, func(ctx context.Context, tx *sql.Tx) error {
			pid = number(t, tx, `select pg_backend_pid()`)
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			defer cancel()
			_, err := tx.ExecContext(ctx, `select 1`)
			return err
		})
	}()
	select {
	case err := <-ended:
		wantError(t, err, context.DeadlineExceeded)
	case <-time.After(patience):
		t.Error("a statement does not end with its ctx")
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	sessionEnds(t, watcher, pid)
}

// fn may use the connection itself for as long as it likes, also where nothing but a
// read can show that the session is gone.
func TestConnOfAHiddenSocket(t *testing.T) {
	t.Parallel()
	config, err := pgx.ParseConfig(newDatabase(t))
	if err != nil {
		t.Fatal(err)
	}
	opaque(config)
	err = pgxlock.New(openPool(t, config)).WithTx(t.Context(), hashkey.Name("conn"), func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Conn().Exec(context.Background(), `select pg_sleep(2.5)`)
		return errors.Join(err, context.Cause(ctx))
	})
	if err != nil {
		t.Error(err)
	}
}
