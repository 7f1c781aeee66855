package integration_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// A sql.Result that a call returns waits for the statement of no other call, on
// the same pool or on another one. It is not parallel: other tests would have the
// connection that the result is of.
func TestResultWaitsForNobody(t *testing.T) {
	value := func(call func(context.Context, *xactlock.Locker, hashkey.Key, func(context.Context, *sql.Tx) (sql.Result, error)) (sql.Result, error)) func(context.Context, *xactlock.Locker) (sql.Result, error) {
		return func(ctx context.Context, l *xactlock.Locker) (sql.Result, error) {
			return call(ctx, l, hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) (sql.Result, error) {
				return tx.ExecContext(ctx, `insert into t values (1), (2)`)
			})
		}
	}
	one := func(ctx context.Context, l *xactlock.Locker) (sql.Result, error) {
		return l.Exec(ctx, hashkey.Name("k"), `insert into t values (1), (2)`)
	}
	for name, test := range map[string]struct {
		mode    pgx.QueryExecMode
		options xactlock.Options
		call    func(context.Context, *xactlock.Locker) (sql.Result, error)
	}{
		"Exec":                  {call: one},
		"Exec, serializable":    {call: one, options: xactlock.Options{Isolation: sql.LevelSerializable}},
		"Exec, simple protocol": {call: one, mode: pgx.QueryExecModeSimpleProtocol},
		"Exec, plain":           {call: one, options: xactlock.Options{Plain: true}},
		"Value":                 {call: value(xactlock.Value[sql.Result])},
		"Value, plain":          {call: value(xactlock.Value[sql.Result]), options: xactlock.Options{Plain: true}},
		"TryValue":              {call: value(xactlock.TryValue[sql.Result])},
	} {
		t.Run(name, func(t *testing.T) {
			db := openDB(t, newDatabase(t), func(c *pgx.ConnConfig) {
				if test.mode != 0 {
					c.DefaultQueryExecMode = test.mode
				}
			})
			watcher, other := openSame(t, db), openSame(t, db)
			if test.options.Plain {
				other = db
			}
			exec(t, watcher, `create table t (n int)`)
			result, err := test.call(t.Context(), xactlock.New(db).With(test.options))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			slept := make(chan error, 1)
			go func() {
				slept <- xactlock.New(other).With(test.options).WithTx(ctx, hashkey.Name("other"), func(ctx context.Context, tx *sql.Tx) error {
					_, err := tx.ExecContext(ctx, `select pg_sleep(3600)`)
					return err
				})
			}()
			untilOneSleeps(t, watcher)
			read := make(chan struct{})
			go func() {
				defer close(read)
				if n, err := result.RowsAffected(); n != 2 || err != nil {
					t.Errorf("%d rows affected, %v; want 2", n, err)
				}
				if n, err := result.LastInsertId(); n != 0 || err == nil {
					t.Errorf("LastInsertId is %d, %v; want pgx's error", n, err)
				}
			}()
			select {
			case <-read:
			case <-time.After(patience):
				t.Error("the result waits for the other call")
			}
			cancel()
			<-slept
			<-read
		})
	}
}

// An fn without a result has none to be read.
func TestValueOfNoResult(t *testing.T) {
	t.Parallel()
	result, err := xactlock.Value(t.Context(), xactlock.New(newDB(t)), hashkey.Name("k"), func(context.Context, *sql.Tx) (sql.Result, error) {
		return nil, nil
	})
	if result != nil || err != nil {
		t.Errorf("got %v, %v", result, err)
	}
}
