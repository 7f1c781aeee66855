package ecosystem

import (
	"sync/atomic"
	"testing"

	entsql "entgo.io/ent/dialect/sql"

	"entgo.io/ent/dialect"
	"github.com/jmoiron/sqlx"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"github.com/pgadvisory/pgadvisory/integration_test/ecosystem/ent"
	"github.com/pgadvisory/pgadvisory/integration_test/ecosystem/sqlcdb"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// An Exec of docs/orms.md is one message, once its text is prepared. Those of
// bun have their arguments in the text, which is another one each time.
func TestGuideExecMessages(t *testing.T) {
	dsn, other := guideDatabase(t)
	setBalance(t, other, 1000)
	var messages atomic.Int64
	db := openMeteredPgxpool(t, dsn, &messages)
	db.SetMaxOpenConns(1)
	l := xactlock.New(db)
	entClient := ent.NewClient(ent.Driver(entsql.OpenDB(dialect.Postgres, db)))
	for _, test := range []struct {
		library  string
		exec     withdrawal
		messages int64
	}{
		{"database/sql", (&sqlAccounts{db, l}).WithdrawExec, 1},
		{"sqlc", (&sqlcAccounts{sqlcdb.New(db), db, l}).WithdrawExec, 1},
		{"sqlx", (&sqlxAccounts{sqlx.NewDb(db, "pgx"), l}).WithdrawExec, 1},
		{"bun", (&bunAccounts{bun.NewDB(db, pgdialect.New()), l}).WithdrawExec, 2},
		{"gorm", (&gormAccounts{openGorm(t, db, false), l}).WithdrawExec, 1},
		{"ent", (&entAccounts{db, entClient, l}).WithdrawExec, 1},
		{"go-jet", (&jetAccounts{db, l}).WithdrawExec, 1},
		{"squirrel", (&squirrelAccounts{db, l}).WithdrawExec, 1},
	} {
		t.Run(test.library, func(t *testing.T) {
			var sent int64
			for amount := range int64(3) {
				before := messages.Load()
				if err := test.exec(t.Context(), 1, amount+1); err != nil {
					t.Fatal(err)
				}
				sent = messages.Load() - before
			}
			if sent != test.messages {
				t.Errorf("the third call sent %d messages, want %d", sent, test.messages)
			}
		})
	}
}
