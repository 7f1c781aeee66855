package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// A call for several keys gets its turn beside two other processes that want one of
// them, as a call for that one alone does.
func TestSeveralKeysGetTheirTurn(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		keys int
		hold time.Duration
	}{{1, 300 * time.Millisecond}, {2, 300 * time.Millisecond}, {10, 60 * time.Millisecond}} {
		t.Run(fmt.Sprintf("%d keys, %v", test.keys, test.hold), func(t *testing.T) {
			t.Parallel()
			db := newDB(t)
			var turns atomic.Int64
			var over atomic.Bool
			others := make(chan error, 2)
			for range 2 {
				l := xactlock.New(openSame(t, db))
				go func() {
					var err error
					for err == nil && !over.Load() {
						err = l.WithTx(context.Background(), hashkey.Int64(0), func(context.Context, *sql.Tx) error {
							time.Sleep(test.hold)
							turns.Add(1)
							return nil
						})
					}
					others <- err
				}()
			}
			until(t, "they take turns", func() bool { return turns.Load() > 4 })
			var keys []hashkey.Key
			for i := range test.keys {
				keys = append(keys, hashkey.Int64(int64(-i)))
			}
			before := turns.Load()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- xactlock.New(db).WithTxAll(ctx, keys, nothing) }()
			until(t, "it had its turn, or the others had fifty", func() bool { return len(done) > 0 || turns.Load() > before+50 })
			if len(done) == 0 {
				t.Errorf("no turn of its own in %d turns of others", turns.Load()-before)
			}
			cancel()
			<-done
			over.Store(true)
			if err := errors.Join(<-others, <-others); err != nil {
				t.Error(err)
			}
		})
	}
}
