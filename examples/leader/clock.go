package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// clock is the work that only the leader does.
type clock struct {
	db    *sql.DB
	every time.Duration
	out   io.Writer
}

// errFenced: somebody else has led since. It takes a leader that was held up
// for long, and does not know yet.
var errFenced = errors.New("there is another leader")

const schema = `
	create table if not exists clock (one bool primary key default true check (one), fence numeric not null, ticks bigint not null);
	insert into clock (fence, ticks) values (0, 0) on conflict do nothing`

// The fence is written together with the work, in one statement. Two leaders
// can believe that they lead; only one of them gets past this.
//
// The token goes as text and is compared as a numeric: it has 64 bits without a
// sign, one more than a bigint has room for.
const tick = `update clock set fence = $1::numeric, ticks = ticks + 1 where fence <= $1::numeric returning ticks`

// run ticks for as long as this process leads. ctx ends when it does not any
// more, and so do the statements that are given ctx.
func (c clock) run(ctx context.Context) error {
	token, err := sessionlock.FromContext(ctx).Token(ctx)
	if err != nil {
		return err
	}
	if _, err := c.db.ExecContext(ctx, schema); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%d leads with token %d\n", os.Getpid(), token)
	defer fmt.Fprintf(c.out, "%d leads no more\n", os.Getpid())
	ticker := time.NewTicker(c.every)
	defer ticker.Stop()
	for {
		if err := c.tick(ctx, token); err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c clock) tick(ctx context.Context, token uint64) error {
	var ticks int64
	err := c.db.QueryRowContext(ctx, tick, fmt.Sprint(token)).Scan(&ticks)
	if errors.Is(err, sql.ErrNoRows) {
		return errFenced
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%d ticks %d\n", os.Getpid(), ticks)
	return nil
}
