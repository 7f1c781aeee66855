package integration_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// The library's own share of a call is bounded, also where ctx may end.
func TestAllocations(t *testing.T) {
	cancellable := t.Context()
	for name, ctx := range map[string]context.Context{"background": context.Background(), "cancellable": cancellable} {
		t.Run(name, func(t *testing.T) { compareAllocations(t, ctx) })
	}
}

func compareAllocations(t *testing.T, ctx context.Context) {
	t.Helper()
	db := newDB(t)
	l := xactlock.New(db)
	key := hashkey.Name("k")
	const query = `select 1`
	byHand := testing.AllocsPerRun(500, func() {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.ExecContext(ctx, query); err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
	})
	withTx := testing.AllocsPerRun(500, func() {
		err := l.WithTx(ctx, key, func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, query)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("%.0f allocations by hand, %.0f with WithTx", byHand, withTx)
	if more := withTx - byHand; more > 15 {
		t.Errorf("%.0f allocations more than by hand, want at most 15", more)
	}
}
