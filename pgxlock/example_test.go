package pgxlock_test

import (
	"context"
	"errors"
	"log"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/pgxlock"
)

var (
	ctx  context.Context
	pool *pgxpool.Pool
)

const accounts = hashkey.Namespace("accounts")

// Read, decide, write: one at a time for each account.
func ExampleLocker_WithTx() {
	locker := pgxlock.New(pool)

	err := locker.WithTx(ctx, accounts.ID(42), func(ctx context.Context, tx pgx.Tx) error {
		var balance int64
		if err := tx.QueryRow(ctx, `select balance from accounts where id = $1`, 42).Scan(&balance); err != nil {
			return err
		}
		if balance < 100 {
			return errors.New("insufficient funds") // rolls back, and is what WithTx returns
		}
		_, err := tx.Exec(ctx, `update accounts set balance = $2 where id = $1`, 42, balance-100)
		return err
	})
	switch {
	case errors.Is(err, pgxlock.ErrNotAcquired):
		log.Print("not our turn before ctx ended: ", err)
	case err != nil:
		log.Print(err)
	}
}

// An import that is skipped if somebody is at it, and that goes on without the
// rows that do not fit.
func ExampleLocker_TryWithTx() {
	locker := pgxlock.New(pool)

	err := locker.TryWithTx(ctx, hashkey.Name("import"), func(ctx context.Context, tx pgx.Tx) error {
		files := [][][]any{{{1, "Ada"}, {2, "Grace"}}, {{3, "Barbara"}}}
		for _, file := range files {
			err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { // a savepoint
				_, err := tx.CopyFrom(ctx, pgx.Identifier{"customers"}, []string{"id", "name"}, pgx.CopyFromRows(file))
				return err
			})
			if err != nil {
				log.Print("left out: ", err)
			}
		}
		return nil
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		log.Print("ctx ended: ", err) // while waiting for a connection of the pool, for example
	case errors.Is(err, pgxlock.ErrNotAcquired):
		log.Print("somebody else is at it")
	case err != nil:
		log.Print(err)
	}
}

// A transfer holds both accounts, and sends its two statements in one message. The
// order of the keys does not matter.
func ExampleLocker_WithTxAll() {
	locker := pgxlock.New(pool)

	keys := []hashkey.Key{accounts.ID(42), accounts.ID(7)}
	err := locker.WithTxAll(ctx, keys, func(ctx context.Context, tx pgx.Tx) error {
		var b pgx.Batch
		b.Queue(`update accounts set balance = balance - 100 where id = $1`, 42)
		b.Queue(`update accounts set balance = balance + 100 where id = $1`, 7)
		return tx.SendBatch(ctx, &b).Close()
	})
	if err != nil {
		log.Print(err)
	}
}

// One statement on a key that everybody wants.
func ExampleLocker_Exec() {
	locker := pgxlock.New(pool)

	tag, err := locker.Exec(ctx, hashkey.Name("invoice number"),
		`insert into invoices (number, customer) select coalesce(max(number), 0) + 1, $1 from invoices`, "Ada")
	if err != nil {
		log.Print(err)
		return
	}
	log.Print(tag.RowsAffected())
}

// A lock in a transaction that the caller has begun and will end.
func ExampleLocker_Lock() {
	locker := pgxlock.New(pool).With(pgxlock.Options{Wait: 5 * time.Second})

	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if err := locker.Lock(ctx, tx, accounts.ID(42)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `update accounts set balance = 0 where id = $1`, 42)
		return err
	}) // which commits, and frees the lock
	if err != nil {
		log.Print(err)
	}
}

// A result, without a variable outside the callback.
func ExampleValue() {
	locker := pgxlock.New(pool)

	balance, err := pgxlock.Value(ctx, locker, accounts.ID(42), func(ctx context.Context, tx pgx.Tx) (int64, error) {
		var balance int64
		err := tx.QueryRow(ctx,
			`update accounts set balance = balance - 100 where id = $1 returning balance`, 42).Scan(&balance)
		return balance, err
	})
	if err != nil {
		log.Print(err) // and balance is 0
		return
	}
	log.Print(balance)
}

// A write to another system, which refuses a token smaller than one it has
// seen: so it is safe from a holder that was held up and has lost the lock.
func ExampleToken() {
	locker := pgxlock.New(pool)

	err := locker.WithTx(ctx, hashkey.Name("price list"), func(ctx context.Context, tx pgx.Tx) error {
		token, err := pgxlock.Token(ctx, tx)
		if err != nil {
			return err
		}
		return upload(ctx, "prices.csv", token)
	})
	if err != nil {
		log.Print(err)
	}
}

func upload(context.Context, string, uint64) error { return nil }
