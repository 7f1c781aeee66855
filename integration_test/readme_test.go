package integration_test

import (
	"context"
	"database/sql"
	"sync"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// The code of README.md.

func shipOrder(ctx context.Context, db *sql.DB, id int64) error {
	locker := xactlock.New(db) // one for each *sql.DB, shared
	orders := hashkey.Namespace("orders")
	err := locker.WithTx(ctx, orders.ID(id), func(ctx context.Context, tx *sql.Tx) error {
		return ship(ctx, tx, id) // of all processes, one at a time is in here for this order
	})
	return err
}

func open(url string) (*sql.DB, *xactlock.Locker, error) {
	db, err := sql.Open("pgx", url) // with import _ "github.com/jackc/pgx/v5/stdlib"
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(20) // calls that wait for a lock use at most half of them
	db.SetMaxIdleConns(20) // the default of 2 closes the others after each use
	return db, xactlock.New(db), nil
}

// ship counts how often an order was shipped, by reading and writing.
func ship(ctx context.Context, tx *sql.Tx, id int64) error {
	var shipped int
	if err := tx.QueryRowContext(ctx, `select shipped from orders where id = $1`, id).Scan(&shipped); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `update orders set shipped = $2 where id = $1`, id, shipped+1)
	return err
}

func TestReadme(t *testing.T) {
	t.Parallel()
	db, locker, err := open(newDatabase(t))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	exec(t, db, `create table orders (id bigint, shipped int); insert into orders values (42, 0)`)
	const goroutines, turns = 3, 4
	var group sync.WaitGroup
	for range goroutines {
		group.Go(func() {
			for range turns {
				if err := shipOrder(t.Context(), db, 42); err != nil {
					t.Error(err)
				}
				_, err := locker.Exec(t.Context(), hashkey.Namespace("orders").ID(42), `update orders set shipped = shipped + 1`)
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	var shipped int
	if err := db.QueryRow(`select shipped from orders`).Scan(&shipped); err != nil || shipped != 2*goroutines*turns {
		t.Errorf("shipped %d times (error %v), want %d", shipped, err, 2*goroutines*turns)
	}
}
