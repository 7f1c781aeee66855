package integration_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
	"go.uber.org/goleak"
)

// stormKeys are few, so that there is always somebody else.
var stormKeys = []hashkey.Key{hashkey.Name("a"), hashkey.Name("b"), hashkey.Pair(1, 1), hashkey.Int64(-1)}

// storm is what the goroutines of TestStorm share.
type storm struct {
	*testing.T
	pools    []*sql.DB
	counters [4]atomic.Int64 // increments that are committed, by key
}

// Thousands of calls of all kinds, with cancellations, deadlines, errors and
// panics at any moment, leave nothing behind: no lock, no connection in use,
// no transaction and no goroutine. And of the increments that they said were
// committed, none is lost.
func TestStorm(t *testing.T) {
	calls, goroutines := stress(5000), 16
	before := goleak.IgnoreCurrent()
	t.Run("calls", func(t *testing.T) {
		db := newDB(t)
		exec(t, db, `create table counters (k int primary key, n int)`)
		exec(t, db, `insert into counters select k, 0 from generate_series(0, $1::int) k`, len(stormKeys)-1)
		s := &storm{T: t, pools: []*sql.DB{openSame(t, db), openSame(t, db)}}
		s.pools[1].SetMaxOpenConns(4) // so that calls wait for a connection as well
		s.pools[1].SetMaxIdleConns(4)
		err := parallel(goroutines, func(i int) error {
			r := rand.New(rand.NewPCG(uint64(i), uint64(time.Now().UnixNano())))
			for range calls / goroutines {
				if err := s.call(r); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		noTrace(t, db, s.pools...)
		for k := range stormKeys {
			if got, want := number(t, db, `select n from counters where k = $1`, k), int(s.counters[k].Load()); got != want {
				t.Errorf("counter %d is %d after %d increments that were committed", k, got, want)
			}
		}
	})
	if err := goleak.Find(before, connectionOpener); err != nil {
		t.Error(err)
	}
}

// call makes one call, and checks its error.
func (s *storm) call(r *rand.Rand) error {
	ctx, cancel := s.context(r)
	defer cancel()
	db := s.pools[r.IntN(len(s.pools))]
	o := xactlock.Options{
		Shared:    r.IntN(4) == 0,
		ReadOnly:  r.IntN(8) == 0,
		Plain:     r.IntN(3) == 0,
		Isolation: isolations[r.IntN(len(isolations))],
	}
	switch r.IntN(6) {
	case 0:
		o.Wait = time.Duration(1+r.IntN(20)) * time.Millisecond
	case 1:
		o.Poll = time.Duration(1+r.IntN(3)) * time.Millisecond
	case 2:
		o.MaxHold = time.Minute
	}
	l := xactlock.New(db).With(o)
	k, other := r.IntN(len(stormKeys)), r.IntN(len(stormKeys))
	writes := !o.Shared && !o.ReadOnly
	fn := s.fn(r, k, writes, cancel)
	err := errExpected // also if fn panics
	func() {
		defer func() {
			if value := recover(); value != nil {
				if value != errExpected {
					panic(value)
				}
			}
		}()
		switch r.IntN(6) {
		case 0:
			err = l.TryWithTx(ctx, stormKeys[k], fn)
		case 1:
			err = l.WithTxAll(ctx, []hashkey.Key{stormKeys[other], stormKeys[k]}, fn)
		case 2:
			_, err = xactlock.Value(ctx, l, stormKeys[k], func(ctx context.Context, tx *sql.Tx) (int, error) { return 1, fn(ctx, tx) })
		case 3:
			err = s.onOwnTx(ctx, r, l, db, k, fn)
		case 4:
			err = l.WithTx(ctx, stormKeys[k], func(ctx context.Context, tx *sql.Tx) error {
				if err := l.TryWithTx(ctx, stormKeys[other], unreachable(s)); !errors.Is(err, xactlock.ErrNested) {
					return fmt.Errorf("a nested call: %w", err)
				}
				return fn(ctx, tx)
			})
		default:
			err = l.WithTx(ctx, stormKeys[k], fn)
		}
	}()
	if err == nil && writes {
		s.counters[k].Add(1)
	}
	if ctx.Err() != nil && errors.Is(err, driver.ErrBadConn) {
		return nil // what pgx says of a statement that it did not send because ctx had ended
	}
	return s.acceptable(err)
}

// onOwnTx calls fn in a transaction of the caller's own.
func (s *storm) onOwnTx(ctx context.Context, r *rand.Rand, l *xactlock.Locker, db *sql.DB, k int, fn xactlock.Func) error {
	// A ctx that ended during Commit would leave the storm in doubt.
	tx, err := db.BeginTx(context.WithoutCancel(ctx), nil)
	if errors.Is(err, driver.ErrBadConn) {
		return errExpected // database/sql hands on what pgx has closed
	}
	if err != nil {
		return err
	}
	defer tx.Rollback()
	ok := true
	if r.IntN(2) == 0 {
		err = l.Lock(ctx, tx, stormKeys[k])
	} else {
		ok, err = l.TryLock(ctx, tx, stormKeys[k])
	}
	if err != nil || !ok {
		return errors.Join(err, errExpected)
	}
	if err := fn(ctx, tx); err != nil {
		return errors.Join(err, errExpected) // pgx may have closed the connection before
	}
	if err := tx.Commit(); err != nil && !errors.Is(err, pgconn.ErrConnClosed) {
		return err
	} else if err != nil {
		return errExpected
	}
	return nil
}

// context returns a ctx that mostly ends too early.
func (s *storm) context(r *rand.Rand) (context.Context, context.CancelFunc) {
	switch r.IntN(4) {
	case 0:
		return context.WithTimeout(s.Context(), time.Duration(r.IntN(15))*time.Millisecond)
	case 1:
		ctx, cancel := context.WithCancel(s.Context())
		timer := time.AfterFunc(time.Duration(r.IntN(15))*time.Millisecond, cancel)
		return ctx, func() { timer.Stop(); cancel() }
	}
	return context.WithTimeout(s.Context(), patience)
}

// fn returns one that increments a counter, if it writes, and may end in any
// way.
func (s *storm) fn(r *rand.Rand, k int, writes bool, cancel func()) xactlock.Func {
	end := r.IntN(12)
	return func(ctx context.Context, tx *sql.Tx) error {
		var n int
		if err := tx.QueryRowContext(ctx, `select n from counters where k = $1`, k).Scan(&n); err != nil {
			return err
		}
		if writes {
			if _, err := tx.ExecContext(ctx, `update counters set n = $2 where k = $1`, k, n+1); err != nil {
				return err
			}
		}
		switch end {
		case 0:
			panic(errExpected)
		case 1:
			return errExpected
		case 2:
			cancel()
		case 3:
			_, _ = tx.ExecContext(ctx, `select 1/0`)
		case 4:
			_ = tx.Rollback()
		}
		return nil
	}
}

// acceptable returns err if a storm is no reason for it.
func (s *storm) acceptable(err error) error {
	switch {
	case err == nil,
		errors.Is(err, errExpected),
		errors.Is(err, xactlock.ErrNotAcquired),
		errors.Is(err, xactlock.ErrTxEnded),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, sql.ErrTxDone),
		errors.Is(err, pgx.ErrTxCommitRollback),
		sqlState(err) == serializationFailure:
		return nil
	}
	return err
}
