package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"net/url"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// A pooler that loses its connection to the server, with the answer to COMMIT,
// ends the client's session with an error of its own. What has become of COMMIT
// is not known then, though the error comes ahead of all answers.
func TestPoolerThatLostTheServer(t *testing.T) {
	for name, call := range map[string]func(ctx context.Context, l *xactlock.Locker, lose func()) error{
		"WithTx": func(ctx context.Context, l *xactlock.Locker, lose func()) error {
			return l.WithTx(ctx, hashkey.Name("pooler"), func(ctx context.Context, tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, `insert into notes values ('WithTx')`)
				lose()
				return err
			})
		},
		"Exec": func(ctx context.Context, l *xactlock.Locker, lose func()) error {
			lose()
			_, err := l.Exec(ctx, hashkey.Name("pooler"), `insert into notes values ('Exec')`)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			dsn := newDatabase(t)
			other := openDB(t, dsn)
			exec(t, other, `create table notes (note text)`)
			p, through := newProxy(t, dsn)
			db := openDB(t, pgtest.Bouncer(t, rerouted(t, dsn, through), "transaction"))
			err := call(bounded(t), xactlock.New(db), func() {
				p.swallow.Store(&swallow{text: "commit\x00", reached: make(chan struct{})})
			})
			if !errors.Is(err, xactlock.ErrCommitUnknown) || errors.Is(err, xactlock.ErrLost) {
				t.Errorf("got %v, want ErrCommitUnknown", err)
			}
			if name == "WithTx" { // PgBouncer may pass on the message of an Exec in parts, and the last be lost too
				until(t, "what was unknown is committed", func() bool { return number(t, other, `select count(*) from notes`) == 1 })
			}
		})
	}
}

// rerouted returns the DSN of the way that through leads.
func rerouted(tb testing.TB, dsn string, through func(*pgx.ConnConfig)) string {
	tb.Helper()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		tb.Fatal(err)
	}
	u, err := url.Parse(dsn)
	if err != nil {
		tb.Fatal(err)
	}
	through(config)
	u.Host = net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))
	return u.String()
}
