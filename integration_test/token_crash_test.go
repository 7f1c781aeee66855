package integration_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/sessionlock"
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

// A token that a standby does not have is not handed out: after a promotion it
// could be another holder's.
func TestSessionTokenWaitsForTheStandby(t *testing.T) {
	t.Parallel()
	db := openDB(t, pgtest.Dedicated(t, "synchronous_standby_names = 'missing'").DSN())
	k, err := sessionlock.New(db).Lock(bounded(t), hashkey.Name("token"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked := make(chan error, 1)
	go func() {
		_, err := k.Token(ctx)
		asked <- err
	}()
	until(t, "the token waits for the standby", func() bool {
		return number(t, db, `select count(*) from pg_stat_activity where wait_event = 'SyncRep'`) == 1
	})
	cancel()
	wantError(t, <-asked, context.Canceled)
	wantNoError(t, k.Err())
	wantNoError(t, k.Unlock())
}
