package sessionlock_test

import (
	"context"
	"database/sql"
	"errors"
	"log"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

var (
	ctx context.Context
	db  *sql.DB // of pgx's stdlib
)

// A migration, which one instance of many runs.
func ExampleLocker_WithLock() {
	locker := sessionlock.New(db)

	err := locker.WithLock(ctx, hashkey.Name("migrations"), func(ctx context.Context, conn *sql.Conn) error {
		_, err := conn.ExecContext(ctx, `create index concurrently if not exists orders_customer on orders (customer)`)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
}

// A job that is skipped if somebody is at it.
func ExampleLocker_TryWithLock() {
	err := sessionlock.New(db).TryWithLock(ctx, hashkey.Name("nightly"), func(ctx context.Context, conn *sql.Conn) error {
		return nil // the job
	})
	if errors.Is(err, sessionlock.ErrNotAcquired) {
		log.Print("somebody else is at it")
	}
}

// A leader that writes with its token.
func ExampleLocker_Lead() {
	err := sessionlock.New(db).Lead(ctx, hashkey.Name("reports"), func(ctx context.Context) error {
		token, err := sessionlock.FromContext(ctx).Token(ctx)
		if err != nil {
			return err
		}
		for ctx.Err() == nil { // which ends with the leadership
			if err := post(ctx, token); err != nil {
				return err
			}
		}
		return context.Cause(ctx)
	})
	log.Print(err)
}

// A lock that one function takes and another gives back.
func ExampleLocker_Lock() {
	lock, err := sessionlock.New(db).Lock(ctx, hashkey.Name("device"))
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		<-lock.Lost()
		if errors.Is(lock.Err(), sessionlock.ErrLost) {
			log.Print("stop: somebody else may have it")
		}
	}()
	// …
	if err := lock.Unlock(); err != nil {
		log.Print(err)
	}
}

func post(context.Context, uint64) error { return nil }
