package locktest_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/locktest"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// The code of docs/testing.md.

const accounts = hashkey.Namespace("accounts")

var errInsufficient = errors.New("insufficient funds")

func withdraw(ctx context.Context, locker *xactlock.Locker, id, amount int64) error {
	return locker.WithTx(ctx, accounts.ID(id), func(ctx context.Context, tx *sql.Tx) error {
		var balance int64
		if err := tx.QueryRowContext(ctx, `select balance from accounts where id = $1`, id).Scan(&balance); err != nil {
			return err
		}
		if balance < amount {
			return errInsufficient
		}
		_, err := tx.ExecContext(ctx, `update accounts set balance = $2 where id = $1`, id, balance-amount)
		return err
	})
}

func TestWithdraw(t *testing.T) {
	db := locktest.DB(t) // of this test alone, and empty
	if _, err := db.Exec(`create table accounts (id bigint primary key, balance bigint);
		insert into accounts values (42, 500)`); err != nil {
		t.Fatal(err)
	}
	locker := xactlock.New(db)
	results := make(chan error)
	for range 2 {
		go func() {
			var err error
			for range 50 {
				err = errors.Join(err, withdraw(t.Context(), locker, 42, 5))
			}
			results <- err
		}()
	}
	if err := errors.Join(<-results, <-results); err != nil {
		t.Error(err)
	}
	if err := withdraw(t.Context(), locker, 42, 1); !errors.Is(err, errInsufficient) {
		t.Errorf("error is %v, and nothing should be left", err)
	}
}

func TestSubtests(t *testing.T) {
	locker := xactlock.New(locktest.DB(t))
	url := locktest.URL(t) // outside: in a subtest it is another database's
	t.Run("busy", func(t *testing.T) {
		locktest.Hold(t, url, accounts.ID(42))
		if err := locker.TryWithTx(t.Context(), accounts.ID(42), nothing); !errors.Is(err, xactlock.ErrNotAcquired) {
			t.Errorf("error is %v, want ErrNotAcquired", err)
		}
	})
}

func TestWithdrawGivesUp(t *testing.T) {
	db := locktest.DB(t)
	release := locktest.Hold(t, locktest.URL(t), accounts.ID(42))
	locker := xactlock.New(db)
	hasty := locker.With(xactlock.Options{Wait: 50 * time.Millisecond})
	if err := withdraw(t.Context(), hasty, 42, 80); !errors.Is(err, xactlock.ErrNotAcquired) {
		t.Errorf("error is %v, want ErrNotAcquired", err)
	}
	release()
	if err := withdraw(t.Context(), locker, 42, 80); errors.Is(err, xactlock.ErrNotAcquired) {
		t.Errorf("the account is free, but: %v", err) // there is no such table, but it got so far
	}
}

// drain sends what is queued, on one machine, until ctx ends.
func drain(ctx context.Context, locker *sessionlock.Locker, send func(context.Context) error) error {
	return locker.WithLock(ctx, hashkey.Name("outbox"), func(ctx context.Context, _ *sql.Conn) error {
		for ctx.Err() == nil { // which ends with the lock, too
			if err := send(ctx); err != nil {
				return err
			}
		}
		return context.Cause(ctx)
	})
}

func TestDrainStopsWithItsLock(t *testing.T) {
	db, url := locktest.DB(t), locktest.URL(t)
	locker := sessionlock.New(db).With(sessionlock.Options{Check: 10 * time.Millisecond})
	err := drain(t.Context(), locker, func(ctx context.Context) error {
		locktest.Lose(t, url, hashkey.Name("outbox"))
		<-ctx.Done() // a send that takes long
		return ctx.Err()
	})
	if !errors.Is(err, sessionlock.ErrLost) {
		t.Errorf("error is %v, want ErrLost", err)
	}
}

func TestCandidateStandsBy(t *testing.T) {
	db, url, key := locktest.DB(t), locktest.URL(t), hashkey.Name("clock")
	release := locktest.Hold(t, url, key) // another process leads
	events := make(chan sessionlock.EventKind, 10)
	locker := sessionlock.New(db).With(sessionlock.Options{
		Check:   10 * time.Millisecond,
		Observe: func(e sessionlock.Event) { events <- e.Kind },
	})
	next := func(want sessionlock.EventKind) {
		t.Helper()
		if got := <-events; got != want {
			t.Fatalf("the event is %v, want %v", got, want)
		}
	}
	ctx, resign := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- locker.Lead(ctx, key, func(ctx context.Context) error {
			<-ctx.Done() // the work
			return ctx.Err()
		})
	}()
	next(sessionlock.Waiting) // it stands by
	release()
	next(sessionlock.Granted) // it leads
	locktest.Lose(t, url, key)
	next(sessionlock.Lost) // its ctx ends
	next(sessionlock.Waiting)
	next(sessionlock.Granted) // it leads again
	resign()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want that of ctx", err)
	}
}

// turns runs f while nobody else works on the account: a method of the type that
// has the *xactlock.Locker, or in a test whatever comes in handy.
type turns func(ctx context.Context, account int64, f func(context.Context, *sql.Tx) error) error

func perAccount(locker *xactlock.Locker) turns {
	return func(ctx context.Context, account int64, f func(context.Context, *sql.Tx) error) error {
		return locker.WithTx(ctx, accounts.ID(account), f)
	}
}

// statusOf is the answer of an HTTP handler.
func statusOf(ctx context.Context, turn turns, account int64) int {
	err := turn(ctx, account, func(context.Context, *sql.Tx) error { return nil })
	switch {
	case errors.Is(err, xactlock.ErrNotAcquired):
		return 503 // the wait is over: try again later
	case errors.Is(err, xactlock.ErrCommitUnknown):
		return 504 // look before you try again
	case err != nil:
		return 500
	}
	return 200
}

func TestStatusOf(t *testing.T) {
	for err, want := range map[error]int{nil: 200, xactlock.ErrNotAcquired: 503, xactlock.ErrCommitUnknown: 504, sql.ErrNoRows: 500} {
		turn := func(context.Context, int64, func(context.Context, *sql.Tx) error) error { return err }
		if got := statusOf(t.Context(), turn, 42); got != want {
			t.Errorf("%v: status %d, want %d", err, got, want)
		}
	}
}

// The real one, once.
func TestPerAccount(t *testing.T) {
	locker := xactlock.New(locktest.DB(t)).With(xactlock.Options{Wait: time.Second})
	locktest.Hold(t, locktest.URL(t), accounts.ID(42))
	if got := statusOf(t.Context(), perAccount(locker), 42); got != 503 {
		t.Errorf("the account that is busy: status %d, want 503", got)
	}
	if got := statusOf(t.Context(), perAccount(locker), 43); got != 200 {
		t.Errorf("another account: status %d, want 200", got)
	}
}

func nothing(context.Context, *sql.Tx) error { return nil }
