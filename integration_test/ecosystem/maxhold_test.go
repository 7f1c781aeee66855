package ecosystem

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// Where the library cannot end a session, a holder that outstays MaxHold and Grace
// has its lock until it returns. It is not told then that the lock was lost.
func TestMaxHoldIsNoLoss(t *testing.T) {
	for driver, open := range map[string]func(t *testing.T, dsn string) *sql.DB{"lib/pq": openPq, "opaque pgx": openOpaque} {
		t.Run(driver, func(t *testing.T) {
			const maxHold = 100 * time.Millisecond
			dsn := pgtest.New(t).Scratch(t)
			other := xactlock.New(openPgx(t, dsn))
			l := xactlock.New(open(t, dsn)).With(xactlock.Options{MaxHold: maxHold, Grace: maxHold})
			ended := false // by the server, which PostgreSQL 17 and later do
			err := l.WithTx(t.Context(), key, func(ctx context.Context, tx *sql.Tx) error {
				if _, err := tx.ExecContext(context.WithoutCancel(ctx), `select pg_sleep(0.5)`); err != nil {
					ended = true
					return err
				}
				if err := other.TryWithTx(t.Context(), key, unreachable(t)); !errors.Is(err, xactlock.ErrNotAcquired) {
					t.Errorf("another call, while fn runs: %v, want ErrNotAcquired", err)
				}
				return nil
			})
			if ended {
				if err == nil {
					t.Error("the session was ended, and the call returns nil")
				}
			} else if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, xactlock.ErrLost) {
				t.Errorf("got %v, want that ctx ended inside fn", err)
			}
		})
	}
}
