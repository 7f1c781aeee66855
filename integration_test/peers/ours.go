package main

import (
	"context"
	"database/sql"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// pollInterval is between two questions of those that ask and sleep.
const pollInterval = 5 * time.Millisecond

func ourWithTx() competitor {
	return competitor{
		name:  nameOurs,
		sends: "`begin; try; savepoint` as one message, then `release; commit` as one, all prepared; an UPDATE is one more",
		open: func(_ context.Context, p *place) (locker, error) {
			return withTx(xactlock.New(p.db)), nil
		},
	}
}

func ourPoll() competitor {
	return competitor{
		name:  nameOursPoll,
		sends: "the same, and after a refusal `rollback` and 5 ms without a connection",
		open: func(_ context.Context, p *place) (locker, error) {
			return withTx(xactlock.New(p.db).With(xactlock.Options{Poll: pollInterval})), nil
		},
	}
}

func withTx(l *xactlock.Locker) locker {
	return stateless(func(ctx context.Context, t turn) error {
		return l.WithTx(ctx, hashkey.Int64(t.key), func(ctx context.Context, tx *sql.Tx) error {
			return t.in(ctx, tx)
		})
	})
}

func ourExec() competitor {
	return competitor{
		name:       nameExec,
		sends:      "`begin`, lock, the UPDATE and `commit` as one message, one Exec to each; at most half of the pool is under way for a key",
		updateOnly: true,
		open: func(_ context.Context, p *place) (locker, error) {
			l := xactlock.New(p.db)
			return stateless(func(ctx context.Context, t turn) error {
				_, err := l.Exec(ctx, hashkey.Int64(t.key), updateSQL, t.row())
				return err
			}), nil
		},
	}
}
