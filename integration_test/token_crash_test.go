package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// A token that a holder has is not given to another one after a crash of the
// server, which may forget that it assigned a transaction's id.
func TestSessionTokenOutlivesACrash(t *testing.T) {
	t.Parallel()
	server := pgtest.Dedicated(t)
	db := openDB(t, server.Database(t))
	key := hashkey.Name("token")
	var last uint64
	for range 3 {
		var token uint64
		// fn's error is that of a session which is gone.
		_ = sessionlock.New(db).WithLock(bounded(t), key, func(ctx context.Context, _ *sql.Conn) (err error) {
			if token, err = sessionlock.FromContext(ctx).Token(ctx); err != nil {
				t.Error(err)
			}
			server.Crash(t)
			return nil
		})
		server.Restart(t)
		if token <= last {
			t.Errorf("the token is %d, after %d of a holder before the crash", token, last)
		}
		last = token
	}
}

// What a standby does not have is not handed out as done when the caller's ctx
// ends: after a promotion a token could be another holder's, and a write be lost.
func TestCancelledWaitForAStandby(t *testing.T) {
	t.Parallel()
	db := openDB(t, pgtest.Dedicated(t, "synchronous_standby_names = 'missing'").DSN())
	exec(t, db, `begin; set local synchronous_commit = local; create table t (n int); commit`)
	k := lock(t, sessionlock.New(db), hashkey.Name("token"))
	token := func(ctx context.Context) error { _, err := k.Token(ctx); return err }
	write := func(ctx context.Context) error {
		_, err := xactlock.New(db).Exec(ctx, hashkey.Name("write"), `insert into t values ($1)`, 1)
		return err
	}
	for name, test := range map[string]struct {
		call    func(context.Context) error
		unknown bool
	}{"Token": {token, false}, "Exec": {write, true}} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- test.call(ctx) }()
			until(t, "it waits for the standby", func() bool {
				return number(t, db, `select count(*) from pg_stat_activity where wait_event = 'SyncRep'`) == 1
			})
			cancel()
			err := <-ended
			wantError(t, err, context.Canceled)
			if errors.Is(err, xactlock.ErrCommitUnknown) != test.unknown {
				t.Errorf("got %v", err)
			}
			until(t, "the wait has ended on the server", func() bool {
				return number(t, db, `select count(*) from pg_stat_activity where wait_event = 'SyncRep'`) == 0
			})
		})
	}
	wantNoError(t, k.Err())
	wantNoError(t, k.Unlock())
}
