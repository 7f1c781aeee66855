package integration_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// The code of docs/operations.md.

func keepTime(ctx context.Context, db *sql.DB, locker *sessionlock.Locker) error {
	return locker.Lead(ctx, hashkey.Name("clock"), func(ctx context.Context) error {
		token, err := sessionlock.FromContext(ctx).Token(ctx)
		for err == nil { // ctx ends with the lead, and with ctx tick fails
			err = tick(ctx, db, fmt.Sprint(token))
		}
		return err
	})
}

// tick returns sql.ErrNoRows if somebody else has led since.
func tick(ctx context.Context, db *sql.DB, token string) error {
	var ticks int64
	return db.QueryRowContext(ctx, `update clock set fence = $1::numeric, ticks = ticks + 1
		where fence <= $1::numeric returning ticks`, token).Scan(&ticks)
}

func cancelStatements(config *pgx.ConnConfig) {
	sessionlock.CancelStatements(config) // a *pgx.ConnConfig, before the pool is made
}

func newLoggingLocker(db *sql.DB) *xactlock.Locker {
	locker := xactlock.New(db).With(xactlock.Options{Observe: func(e xactlock.Event) {
		slog.Info("lock", "event", e)
	}})
	return locker
}

// The query of docs/operations.md shows a lock that belongs to a prepared transaction,
// which no session has.
func TestOperationsShowsPreparedTransactions(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/operations.md")
	wantNoError(t, err)
	_, query, _ := strings.Cut(string(text), "```sql\nselect l.pid")
	query, _, whole := strings.Cut("select l.pid"+query, "```")
	if !whole {
		t.Fatal("docs/operations.md has no query that begins with select l.pid")
	}
	db := openDB(t, pgtest.Dedicated(t, "max_prepared_transactions = 5").DSN())
	exec(t, db, `begin; select pg_advisory_xact_lock(7); prepare transaction 'orphan'`)
	rows, err := db.Query(query)
	wantNoError(t, err)
	defer rows.Close()
	columns, err := rows.Columns()
	wantNoError(t, err)
	n := 0
	for ; rows.Next(); n++ {
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		wantNoError(t, rows.Scan(values...))
		if pid := *values[0].(*any); pid != nil {
			t.Errorf("pid %v, want none", pid)
		}
	}
	if err := rows.Err(); err != nil || n != 1 {
		t.Errorf("%d locks, %v, want 1", n, err)
	}
}

// A leader works until it is told that somebody else has led since: by the fence,
// in a token larger than its own, and larger than a bigint.
func TestFencedLeader(t *testing.T) {
	t.Parallel()
	db := openDB(t, newDatabase(t), cancelStatements)
	exec(t, db, `create table clock (fence numeric not null, ticks bigint not null)`)
	if _, err := newLoggingLocker(db).Exec(t.Context(), hashkey.Name("set-up"), `insert into clock values (0, 0)`); err != nil {
		t.Fatal(err)
	}
	ctx, ended := bounded(t), make(chan error, 1)
	go func() { ended <- keepTime(ctx, db, sessionlock.New(db)) }()
	until(t, "the leader works", func() bool { return number(t, db, `select count(*) from clock where ticks > 2 and fence > 0`) == 1 })
	const later = "18446744073709551615"
	if err := tick(t.Context(), db, later); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != sql.ErrNoRows {
		t.Errorf("the leader of before ends with %v, want sql.ErrNoRows", err)
	}
	if n := number(t, db, `select count(*) from clock where fence = `+later); n != 1 {
		t.Error("the fence of the later leader is gone")
	}
}
