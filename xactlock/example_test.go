package xactlock_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"log"
	"log/slog"
	"os"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

var (
	ctx context.Context
	db  *sql.DB // of any driver for PostgreSQL
)

const accounts = hashkey.Namespace("accounts")

// Read, decide, write: one at a time for each account.
func ExampleLocker_WithTx() {
	locker := xactlock.New(db)

	err := locker.WithTx(ctx, accounts.ID(42), func(ctx context.Context, tx *sql.Tx) error {
		var balance int64
		if err := tx.QueryRowContext(ctx, `select balance from accounts where id = $1`, 42).Scan(&balance); err != nil {
			return err
		}
		if balance < 100 {
			return errors.New("insufficient funds") // rolls back, and is what WithTx returns
		}
		_, err := tx.ExecContext(ctx, `update accounts set balance = $2 where id = $1`, 42, balance-100)
		return err
	})
	switch {
	case errors.Is(err, xactlock.ErrNotAcquired):
		log.Print("not our turn before ctx ended: ", err)
	case err != nil:
		log.Print(err)
	}
}

// A job that is skipped if somebody is at it.
func ExampleLocker_TryWithTx() {
	locker := xactlock.New(db)

	err := locker.TryWithTx(ctx, hashkey.Name("nightly report"), func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `insert into reports select current_date, sum(balance) from accounts`)
		return err
	})
	switch {
	case errors.Is(err, xactlock.ErrNotAcquired):
		log.Print(err) // somebody else is at it, or ctx ended before that was known
	case err != nil:
		log.Print(err)
	}
}

// A transfer holds both accounts. The order of the keys does not matter.
func ExampleLocker_WithTxAll() {
	locker := xactlock.New(db)

	keys := []hashkey.Key{accounts.ID(42), accounts.ID(7)}
	err := locker.WithTxAll(ctx, keys, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `update accounts set balance = balance - 100 where id = $1`, 42); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `update accounts set balance = balance + 100 where id = $1`, 7)
		return err
	})
	if err != nil {
		log.Print(err)
	}
}

// One statement on a key that everybody wants.
func ExampleLocker_Exec() {
	locker := xactlock.New(db)

	result, err := locker.Exec(ctx, hashkey.Name("invoice number"),
		`insert into invoices (number, customer) select coalesce(max(number), 0) + 1, $1 from invoices`, "Ada")
	if err != nil {
		log.Print(err)
		return
	}
	n, err := result.RowsAffected()
	log.Print(n, err)
}

// A lock in a transaction that the caller has begun and will end.
func ExampleLocker_Lock() {
	locker := xactlock.New(db).With(xactlock.Options{Wait: 5 * time.Second})

	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		log.Print(err)
		return
	}
	defer tx.Rollback() // does nothing after Commit
	if err := locker.Lock(ctx, tx, accounts.ID(42)); err != nil {
		log.Print(err)
		return
	}
	if _, err := tx.ExecContext(ctx, `update accounts set balance = 0 where id = $1`, 42); err != nil {
		log.Print(err)
		return
	}
	if err := tx.Commit(); err != nil { // frees the lock
		log.Print(err)
	}
}

// A second lock, taken on the transaction in hand: a nested WithTx would be
// refused.
func ExampleLocker_Lock_second() {
	locker := xactlock.New(db)

	err := locker.WithTx(ctx, accounts.ID(42), func(ctx context.Context, tx *sql.Tx) error {
		var heir int64
		if err := tx.QueryRowContext(ctx, `select heir from accounts where id = $1`, 42).Scan(&heir); err != nil {
			return err
		}
		if err := locker.Lock(ctx, tx, accounts.ID(heir)); err != nil {
			return err // ErrDeadlock, if somebody takes the two in the other order
		}
		_, err := tx.ExecContext(ctx, `update accounts set balance = balance + 100 where id = $1`, heir)
		return err
	})
	if err != nil {
		log.Print(err)
	}
}

// As many jobs as are free, in one transaction.
func ExampleLocker_TryLock() {
	locker := xactlock.New(db)
	jobs := hashkey.Namespace("jobs")

	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		log.Print(err)
		return
	}
	defer tx.Rollback()
	for id := range int64(10) {
		ok, err := locker.TryLock(ctx, tx, jobs.ID(id))
		if err != nil {
			log.Print(err)
			return
		}
		if !ok {
			continue // somebody else has it; tx holds what it held before
		}
		if _, err := tx.ExecContext(ctx, `update jobs set done = true where id = $1`, id); err != nil {
			log.Print(err)
			return
		}
	}
	if err := tx.Commit(); err != nil {
		log.Print(err)
	}
}

// A result, without a variable outside the callback.
func ExampleValue() {
	locker := xactlock.New(db)

	balance, err := xactlock.Value(ctx, locker, accounts.ID(42), func(ctx context.Context, tx *sql.Tx) (int64, error) {
		var balance int64
		err := tx.QueryRowContext(ctx,
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
	locker := xactlock.New(db)

	err := locker.WithTx(ctx, hashkey.Name("price list"), func(ctx context.Context, tx *sql.Tx) error {
		token, err := xactlock.Token(ctx, tx)
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

// What each call cost, in a structured log. The key is named as a person wrote it,
// and the durations are in seconds.
func ExampleOptions_observe() {
	log := slog.New(slog.NewJSONHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTimes}))
	locker := xactlock.New(sql.OpenDB(away{})).With(xactlock.Options{
		Wait: 2 * time.Second,
		Observe: func(e xactlock.Event) {
			level := slog.LevelDebug
			if e.Err != nil {
				level = slog.LevelWarn
			}
			log.Log(context.Background(), level, "lock", "op", e.Op, "keys", e.Keys, "outcome", e.Outcome,
				"contended", e.Contended, "waited", e.Waited.Seconds(), "held", e.Held.Seconds(), "error", e.Err)
		},
	})

	_ = locker.WithTx(context.Background(), accounts.ID(42), func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `update accounts set balance = 0 where id = $1`, 42)
		return err
	})
	// Output:
	// {"level":"WARN","msg":"lock","op":"WithTx","keys":["\"accounts/42\" (-286207215604641505)"],"outcome":"failed","contended":false,"error":"xactlock: \"accounts/42\" (-286207215604641505): the database is away"}
}

// away is a database that cannot be reached.
type away struct{}

func (away) Connect(context.Context) (driver.Conn, error) {
	return nil, errors.New("the database is away")
}
func (away) Driver() driver.Driver { return nil }

// withoutTimes leaves out what differs from run to run.
func withoutTimes(_ []string, a slog.Attr) slog.Attr {
	switch a.Key {
	case slog.TimeKey, "waited", "held":
		return slog.Attr{}
	}
	return a
}

// An ORM's own transaction: here that of a program's own type around *sql.Tx.
func ExampleWithTxOf() {
	locker := xactlock.New(db)
	type orm struct{ *sql.Tx } // or bun.Tx, *sqlx.Tx, a method's receiver, …

	err := xactlock.WithTxOf(ctx, locker, accounts.ID(42),
		func(ctx context.Context) (orm, error) {
			tx, err := db.BeginTx(ctx, nil)
			return orm{tx}, err
		},
		func(ctx context.Context, tx orm) error {
			_, err := tx.ExecContext(ctx, `update accounts set balance = 0 where id = $1`, 42)
			return err
		})
	if err != nil {
		log.Print(err)
	}
}
