package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// execSQL is all of a writer's section in one statement.
const execSQL = `with last as (select coalesce(max(n), 0) + 1 as n from chain_%[1]d),
	written as (update register_%[1]d set a = last.n, b = last.n from last)
	insert into chain_%[1]d (n, op, token) select n, $1, pg_current_xact_id()::text::bigint from last`

// exec is a writer's section by Exec.
func (o *operation) exec(ctx context.Context) error {
	n, err := o.locks.exec(ctx, o.pool, &o.call, fmt.Sprintf(execSQL, o.Keys[0]), o.id)
	if err != nil {
		return o.refused(o.Keys[0], err)
	}
	if n != 1 {
		o.violated(o.Keys[0], "Exec inserted a row, and says that it was %d", n)
	}
	return nil
}

// inTransaction is the callback of the verbs with a transaction.
func (o *operation) inTransaction(ctx context.Context, tx transaction) error {
	o.entered = true
	o.log(event{What: evEnter})
	defer func() { o.log(event{What: evLeave}) }()
	if o.r.IntN(4) == 0 && !o.Shared {
		token, err := tx.token(ctx)
		if err != nil {
			return err
		}
		o.log(event{What: evToken, Token: token})
	}
	switch o.Style {
	case styleRead:
		return o.readTwice(ctx, tx, tx)
	case styleFail:
		return o.failAndGoOn(ctx, tx)
	case styleOccupy:
		time.Sleep(time.Duration(o.r.IntN(4000)) * time.Microsecond)
		return o.prove(ctx, tx)
	case styleIdle:
		return o.waitForLoss(ctx, tx)
	}
	if err := o.write(ctx, tx); err != nil {
		return err
	}
	switch o.Style {
	case styleError:
		return errOwn
	case stylePanic:
		panic(errOwn)
	}
	return nil
}

// write reads the registers, without FOR UPDATE, and writes what follows: two
// columns in two statements, and a row of the chain.
func (o *operation) write(ctx context.Context, tx transaction) error {
	next := make([]int64, len(o.Keys))
	for i, key := range o.Keys {
		n, err := o.readBoth(ctx, tx, key)
		if err != nil {
			return err
		}
		next[i] = n + 1
		o.log(event{What: evWrite, Key: key, N: n + 1})
	}
	o.pause()
	for i, key := range o.Keys {
		text := fmt.Sprintf("update register_%d set a = $1", key)
		if _, err := tx.exec(ctx, text, next[i]); err != nil {
			return o.refused(key, err)
		}
	}
	o.pause()
	for i, key := range o.Keys {
		text := fmt.Sprintf(`with written as (update register_%[1]d set b = $1)
			insert into chain_%[1]d (n, op, token) values ($1, $2, pg_current_xact_id()::text::bigint)`, key)
		at := clock()
		if _, err := tx.exec(ctx, text, next[i], o.id); err != nil {
			return o.refused(key, err)
		}
		o.log(event{At: at, What: evHeld})
	}
	return nil
}

// readBoth returns the last number of a key's chain, which is its register's.
func (o *operation) readBoth(ctx context.Context, tx transaction, key int) (int64, error) {
	n, err := o.read(ctx, tx, key, "n")
	if err != nil || o.r.IntN(2) == 0 {
		return n, err
	}
	b, err := o.read(ctx, tx, key, "b")
	if err == nil && b != n {
		o.violated(key, "read %d, and in the next statement of the same holder %d", n, b)
	}
	return n, err
}

// readTwice reads a register in two statements. What it has read is checked
// later, if the lock was held meanwhile.
func (o *operation) readTwice(ctx context.Context, on, lock runner) error {
	for _, key := range o.Keys {
		for _, column := range []string{"a", "b"} {
			n, err := o.read(ctx, on, key, column)
			if err != nil {
				return err
			}
			o.log(event{What: evRead, Key: key, N: n})
			o.pause()
		}
	}
	if lock == nil {
		return nil
	}
	return o.prove(ctx, lock)
}

// failAndGoOn has a statement fail, and works on, in the belief that the lock
// is still there.
func (o *operation) failAndGoOn(ctx context.Context, tx transaction) error {
	_, err := tx.exec(ctx, "select 1/0")
	if answer := new(pgconn.PgError); !errors.As(err, &answer) || answer.Code != "22012" {
		if err == nil {
			o.violated(o.Keys[0], "select 1/0 did not fail")
		}
		return err
	}
	o.pause()
	o.pause()
	if err := o.prove(ctx, tx); err != nil {
		return err
	}
	return errOwn
}
