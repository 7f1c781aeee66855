package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

var errReportBusy = errors.New("somebody else is writing this report")

// reportLocks are apart from accountLocks: whoever writes the report on an
// account keeps nobody from withdrawing.
const reportLocks = hashkey.Namespace("reports")

// reportStore keeps the latest report on each account.
type reportStore struct {
	locker *xactlock.Locker
}

type report struct {
	Account   int64     `json:"account"`
	Balance   int64     `json:"balance"`
	WrittenAt time.Time `json:"written_at"`
}

// write writes the report on an account, or returns errReportBusy at once if
// somebody else is at it: nobody needs two.
func (s *reportStore) write(ctx context.Context, account int64) (report, error) {
	r := report{Account: account}
	err := s.locker.TryWithTx(ctx, reportLocks.ID(account), func(ctx context.Context, tx *sql.Tx) error {
		return r.save(ctx, tx)
	})
	switch {
	case refused(err):
		return report{}, fmt.Errorf("%w: %w", errReportBusy, err)
	case err != nil:
		return report{}, err
	}
	return r, nil
}

// refused reports whether err is that of a try which found the lock taken.
// Where ErrNotAcquired is joined with the end of a context, it was the pool
// that had no connection in time, which says nothing about the lock.
func refused(err error) bool {
	return errors.Is(err, xactlock.ErrNotAcquired) &&
		!errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled)
}

// save gathers the report and stores it. The time is clock_timestamp(), as the
// transaction's now() may be from before the lock was granted.
func (r *report) save(ctx context.Context, tx *sql.Tx) error {
	const statement = `
		insert into reports (account, balance, written_at)
		select id, balance, clock_timestamp() from accounts where id = $1
		on conflict (account) do update set balance = excluded.balance, written_at = excluded.written_at
		returning balance, written_at`
	err := tx.QueryRowContext(ctx, statement, r.Account).Scan(&r.Balance, &r.WrittenAt)
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%w: %d", errNoAccount, r.Account)
	}
	return err
}
