package integration_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/hashkey"
)

// lateness is by how much the server's answers are late on a lateReader.
const lateness = 200 * time.Millisecond

type lateReader struct{ net.Conn }

func (c lateReader) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	time.Sleep(lateness)
	return n, err
}

// whilePreparing calls f with both packages, and a ctx that cancel ends while the
// server is idle between two messages: pgx prepares a statement that is new to it, and
// executes it then. That is when a cancel request cancels nothing.
func whilePreparing(t *testing.T, f func(t *testing.T, v verbs, ctx context.Context, endSoon func())) {
	dsn := newDatabase(t)
	for name, open := range packages {
		if name == plain {
			continue // where pgx closes the connection
		}
		t.Run(name, func(t *testing.T) {
			config, err := pgx.ParseConfig(dsn)
			if err != nil {
				t.Fatal(err)
			}
			wrapping(func(c net.Conn) net.Conn { return lateReader{c} })(config)
			v := open(t, config)
			wantNoError(t, v.WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx transaction) error {
				return tx.Exec(ctx, `create table if not exists t (n int)`)
			}))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			f(t, v, ctx, func() { time.AfterFunc(lateness/2, cancel) })
		})
	}
}

// Rule 3: the lock outlives ctx, also where that ends while a statement is prepared.
func TestLockOutlivesContextUnderAPreparation(t *testing.T) {
	t.Parallel()
	whilePreparing(t, func(t *testing.T, v verbs, ctx context.Context, endSoon func()) {
		err := v.WithTx(ctx, hashkey.Name("k"), func(ctx context.Context, tx transaction) error {
			endSoon()
			if err := tx.Exec(ctx, `select pg_sleep($1)`, 3600); err == nil {
				t.Error("the statement was executed to its end")
			}
			const inFailedTransaction = "25P02" // which is the answer of a session that is there
			if err := tx.Exec(context.WithoutCancel(ctx), `select 1`); sqlState(err) != inFailedTransaction {
				t.Errorf("after the statement: %v", err)
			}
			return nil
		})
		wantError(t, err, context.Canceled)
	})
}

// Rule 9: an Exec whose ctx ends while the statement is prepared has not been granted
// the lock, and commits nothing.
func TestExecEndsUnderAPreparation(t *testing.T) {
	t.Parallel()
	whilePreparing(t, func(t *testing.T, v verbs, ctx context.Context, endSoon func()) {
		endSoon()
		_, err := v.Exec(ctx, hashkey.Name("k"), `insert into t values ($1)`, 1)
		notAcquired(t, err, context.Canceled)
		count := func(ctx context.Context, tx transaction) (n int, err error) {
			rows, err := tx.Text(ctx, `select count(*)::text from t`)
			if rows != "0" {
				t.Errorf("%s rows are committed", rows)
			}
			return 0, err
		}
		_, err = v.Value(t.Context(), hashkey.Name("k"), count)
		wantNoError(t, err)
	})
}
