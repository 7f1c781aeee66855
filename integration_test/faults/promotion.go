package main

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// promotion is the fault of a run with a standby that is done after so many
// others, so that each run of some length has some.
var promotion = kind{"standby promoted", true, promote}

const promoteAfter = 60

// promote ends the primary without any goodbye, and for good, and makes its
// standby the primary. The old primary becomes the next standby a while later.
func promote(n *nemesis, ctx context.Context) error {
	if !n.take("standby") {
		return errSkipped
	}
	err := n.administer(ctx, func(admin *pgx.Conn) error { return awaitStandby(ctx, admin) })
	if err != nil {
		n.release("standby")
		return errSkipped // another fault has its effect still
	}
	err = n.exclusively(func() error {
		if err := n.server().Control(ctx, "stop", "-m", "immediate"); err != nil {
			return err
		}
		if err := n.standby().Control(ctx, "promote"); err != nil {
			return err
		}
		n.primary = 1 - n.primary
		n.behind.target.Store(int64(portOf(n.server().DSN())))
		return nil
	})
	if err != nil {
		return err
	}
	n.sincePromotion = 0
	n.later("standby", n.some(2000), n.renewStandby)
	return nil
}

// awaitStandby returns when the standby has all that the primary has written by
// now. The wait of a COMMIT for the standby can be cut short, by a crash of the
// primary or by a cancel request. Others see then what it has written, before the
// standby has it.
func awaitStandby(ctx context.Context, admin *pgx.Conn) error {
	var now string
	if err := admin.QueryRow(ctx, "select pg_current_wal_flush_lsn()::text").Scan(&now); err != nil {
		return err
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		var there bool
		err := admin.QueryRow(ctx, "select exists (select from pg_stat_replication where sync_state = 'sync' and flush_lsn >= $1::text::pg_lsn)", now).Scan(&there)
		if there || err != nil {
			return err
		}
	}
	return errors.New("the standby is behind")
}

// renewStandby makes the server that was the primary the standby of the other.
func (n *nemesis) renewStandby() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return n.exclusively(func() error {
		return untilDone(ctx, func() error {
			err := n.standby().Follow(ctx, n.server())
			if err != nil { // and the primary may be stopped
				err = errors.Join(err, n.server().Control(ctx, "restart", "-m", "fast"))
			}
			return err
		})
	})
}
