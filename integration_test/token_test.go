package integration_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

const (
	tokenProcesses = 2
	turnsOfEach    = 500
)

func init() { processes["write tokens"] = writeTokens }

// writeTokens is one of the processes of TestTokenGrows. It begins when all of
// them have said that they are there, and writes down each turn.
func writeTokens(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	config, err := pgx.ParseConfig(args[0])
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*config)
	defer db.Close()
	if _, err := db.ExecContext(ctx, `insert into arrivals values ($1)`, os.Getpid()); err != nil {
		return err
	}
	for arrived := 0; arrived < tokenProcesses; {
		if err := db.QueryRowContext(ctx, `select count(*) from arrivals`).Scan(&arrived); err != nil {
			return err
		}
	}
	for turn := range turnsOfEach {
		l := xactlock.New(db).With(xactlock.Options{Plain: turn%2 == 0})
		if err := l.WithTx(ctx, hashkey.Name("turn"), writeTurn); err != nil {
			return err
		}
	}
	return nil
}

func writeTurn(ctx context.Context, tx *sql.Tx) error {
	token, err := xactlock.Token(ctx, tx)
	if err != nil {
		return err
	}
	// The sequence, asked under the lock, is the order of the turns.
	_, err = tx.ExecContext(ctx, `insert into turns (token, pid) values ($1::text::numeric, $2)`, fmt.Sprint(token), os.Getpid())
	return err
}

// Rule 14: over a thousand turns of two processes each token is larger than
// the one before it.
func TestTokenGrows(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	exec(t, db, `create table arrivals (pid int)`)
	exec(t, db, `create table turns (turn bigint generated always as identity, token numeric, pid int)`)
	dsn := dsnOf(t, db)
	err := parallel(tokenProcesses, func(int) error { return runProcess("write tokens", dsn) })
	if err != nil {
		t.Fatal(err)
	}
	if n := number(t, db, `select count(*) from turns`); n != tokenProcesses*turnsOfEach {
		t.Errorf("%d turns, want %d", n, tokenProcesses*turnsOfEach)
	}
	const neighbours = `select count(*) from (select token, pid,
		lag(token) over (order by turn) before, lag(pid) over (order by turn) pid_before from turns) t where `
	if n := number(t, db, neighbours+`token <= before`); n != 0 {
		t.Errorf("%d tokens are not larger than the one before", n)
	}
	if n := number(t, db, neighbours+`pid <> pid_before`); n < tokenProcesses {
		t.Errorf("the processes took turns %d times, which shows nothing", n)
	}
	noTrace(t, db)
}

// Rule 14: the token is one for the whole transaction, whatever happens in it,
// and there is one without any write.
func TestTokenOfOneTransaction(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		var last uint64
		for _, readOnly := range []bool{false, true, true, false} {
			o := paths[pathOf(t)]
			o.ReadOnly = readOnly
			err := l.With(o).WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
				first, err := xactlock.Token(ctx, tx)
				if err != nil {
					return err
				}
				if first <= last {
					t.Errorf("token %d after %d", first, last)
				}
				last = first
				if _, err := tx.Exec(`savepoint mine`); err != nil {
					return err
				}
				if !readOnly {
					if err := insert(ctx, tx); err != nil {
						return err
					}
				}
				inside, err := xactlock.Token(ctx, tx)
				if err != nil {
					return err
				}
				_, _ = tx.Exec(`select 1/0`)
				if _, err := tx.Exec(`rollback to savepoint mine`); err != nil {
					return err
				}
				after, err := xactlock.Token(ctx, tx)
				if inside != first || after != first {
					t.Errorf("tokens %d, %d and %d of one transaction", first, inside, after)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		}
	})
}
