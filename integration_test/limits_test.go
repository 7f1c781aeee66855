package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// Short enough for a test to outwait, long enough for what must not take so
// long on a busy machine.
const shortLimit = 400 * time.Millisecond

// needsTransactionTimeout skips the test on servers that have none.
func needsTransactionTimeout(t *testing.T) {
	t.Helper()
	if number(t, newDB(t), `select current_setting('server_version_num')::int`) < 170000 {
		t.Skip("PostgreSQL before 17 has no transaction_timeout")
	}
}

// alterRole sets a default for the role of db in its database.
func alterRole(t *testing.T, db *sql.DB, setting, value string) {
	t.Helper()
	exec(t, db, fmt.Sprintf(`do $$ begin execute format('alter role current_user in database %%I set %s = %%L', current_database(), '%s'); end $$`, setting, value))
}

// shortLimits are settings that would cut a wait, if they applied to it.
var shortLimits = []string{"lock_timeout", "statement_timeout"}

// limited returns a pool whose sessions have the limits by default, half of
// them from the database and half from the role.
func limited(t *testing.T, db *sql.DB, limits []string) *sql.DB {
	t.Helper()
	for i, name := range limits {
		if i%2 == 0 {
			alterDatabase(t, dsnOf(t, db), name, fmt.Sprint(shortLimit))
		} else {
			alterRole(t, db, name, fmt.Sprint(shortLimit))
		}
	}
	return openSame(t, db)
}

// outwaits waits until a session has waited for its lock for longer than the
// limits allow, in one slice or in several.
func outwaits(t *testing.T, db *sql.DB) {
	t.Helper()
	waits := func() bool { return waitingLocks(t, db) > 0 }
	until(t, "a session waits for its lock", waits)
	began := time.Now()
	until(t, "the wait is longer than the limit", func() bool { return time.Since(began) > 3*shortLimit && waits() })
}

// hasLimits checks that tx runs under the limits of its role.
func hasLimits(t *testing.T, when string, tx *sql.Tx, limits []string) {
	t.Helper()
	for _, name := range limits {
		var value string
		if err := tx.QueryRow(`select current_setting($1)`, name).Scan(&value); err != nil {
			t.Errorf("%s: %v", when, err)
		} else if value != fmt.Sprint(shortLimit) {
			t.Errorf("%s: %s is %s, want %v", when, name, value, shortLimit)
		}
	}
}

// limitsInside is an fn that checks the limits, also after a statement that
// failed and was rolled back to a savepoint of fn's own.
func limitsInside(t *testing.T, limits []string) xactlock.Func {
	return func(ctx context.Context, tx *sql.Tx) error {
		hasLimits(t, "inside fn", tx, limits)
		if _, err := tx.Exec(`savepoint mine`); err != nil {
			return err
		}
		if _, err := tx.Exec(`select 1/0`); err == nil {
			t.Error("1/0 is a number")
		}
		if _, err := tx.Exec(`rollback to savepoint mine`); err != nil {
			return err
		}
		hasLimits(t, "after a rollback to a savepoint", tx, limits)
		return nil
	}
}

// Rule 7: the limits of the role and of the database do not cut a wait, and fn
// finds them as they were.
func TestLimitsOfTheRole(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		pool := limited(t, db, shortLimits)
		locker := xactlock.New(pool).With(paths[pathOf(t)])
		for name, call := range calls(locker) {
			if err := call(t.Context(), limitsInside(t, shortLimits)); err != nil {
				t.Errorf("%s without a wait: %v", name, err)
			}
		}
		afterLongWait(t, db, hashkey.Name("k"), func() error {
			return locker.WithTxAll(t.Context(), []hashkey.Key{hashkey.Name("k"), hashkey.Pair(1, 1)}, limitsInside(t, shortLimits))
		})
		if err := inTx(pool, func(tx *sql.Tx) error { hasLimits(t, "after the call", tx, shortLimits); return nil }); err != nil {
			t.Error(err)
		}
	})
}

// afterLongWait checks that call, which waits for key, outwaits the limits.
func afterLongWait(t *testing.T, db *sql.DB, key hashkey.Key, call func() error) {
	t.Helper()
	holder := hold(t, xactlock.New(db), key)
	done := make(chan error, 1)
	go func() { done <- call() }()
	outwaits(t, db)
	if err := holder.release(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Errorf("after a wait: %v", err)
	}
}

// Rule 7 on the caller's own transaction.
func TestLimitsOfTheRoleOnOwnTransaction(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	pool := limited(t, db, shortLimits)
	keys := []hashkey.Key{hashkey.Name("k"), hashkey.Pair(1, 1)}
	afterLongWait(t, db, keys[0], func() error {
		return inTx(pool, func(tx *sql.Tx) error {
			if err := xactlock.New(pool).Lock(t.Context(), tx, keys...); err != nil {
				return err
			}
			return limitsInside(t, shortLimits)(t.Context(), tx)
		})
	})
}

// Rule 7, where the caller's own limit ends the wait rather than the role's.
func TestOwnLimitBesidesThoseOfTheRole(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		pool := limited(t, db, shortLimits)
		pool.SetMaxOpenConns(1)
		o := paths[pathOf(t)]
		o.Wait = 50 * time.Millisecond
		holder := hold(t, xactlock.New(db), hashkey.Name("k"))
		notAcquired(t, xactlock.New(pool).With(o).WithTx(t.Context(), hashkey.Name("k"), unreachable(t)), context.DeadlineExceeded)
		if err := holder.release(); err != nil {
			t.Error(err)
		}
		if err := inTx(pool, func(tx *sql.Tx) error { hasLimits(t, "after the call", tx, shortLimits); return nil }); err != nil {
			t.Error(err)
		}
	})
}

// Rule 7: transaction_timeout, which PostgreSQL 17 brought, ends the session.
// It does not count the wait.
func TestTransactionTimeoutOfTheRole(t *testing.T) {
	t.Parallel()
	needsTransactionTimeout(t)
	limits := []string{"transaction_timeout"}
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		pool := limited(t, db, limits)
		locker := xactlock.New(pool).With(paths[pathOf(t)])
		inside := func(_ context.Context, tx *sql.Tx) error {
			hasLimits(t, "inside fn", tx, limits)
			return nil
		}
		if err := locker.WithTx(t.Context(), hashkey.Name("k"), inside); err != nil {
			t.Errorf("without a wait: %v", err)
		}
		afterLongWait(t, db, hashkey.Name("k"), func() error { return locker.WithTx(t.Context(), hashkey.Name("k"), inside) })
		keepsConnection(t, pool, func() {
			afterLongWait(t, db, hashkey.Name("k"), func() error {
				_, err := locker.Exec(t.Context(), hashkey.Name("k"), `select 1`)
				return err
			})
		})
		if paths[pathOf(t)].Isolation == sql.LevelDefault {
			afterLongWait(t, db, hashkey.Name("k"), func() error {
				return inTx(pool, func(tx *sql.Tx) error {
					if err := locker.Lock(t.Context(), tx, hashkey.Name("k")); err != nil {
						return err
					}
					return inside(t.Context(), tx)
				})
			})
		}
	})
}

// maxHold is short, as the tests wait for it to be over.
const maxHold = 300 * time.Millisecond

// Rule 8: a holder that hangs, silently, loses its session and with it the
// lock; its ctx ends as well, with a cause that says why.
func TestMaxHoldEndsASilentHolder(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]xactlock.Func{
		"at once":                  nothing,
		"after a statement":        insert,
		"after a failed statement": func(_ context.Context, tx *sql.Tx) error { _, _ = tx.Exec(`select 1/0`); return nil },
		"after a rollback to a savepoint": func(_ context.Context, tx *sql.Tx) error {
			_, err := tx.Exec(`savepoint mine`)
			if err == nil {
				_, _ = tx.Exec(`select 1/0`)
				_, err = tx.Exec(`rollback to savepoint mine`)
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
				o := paths[pathOf(t)]
				o.MaxHold = maxHold
				other := xactlock.New(openSame(t, db))
				err := l.With(o).WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
					if err := begin(ctx, tx); err != nil {
						return err
					}
					waitCtx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					if err := other.WithTx(waitCtx, hashkey.Name("k"), nothing); err != nil {
						t.Errorf("the lock while fn hangs: %v", err)
					}
					until(t, "fn's ctx ends", func() bool { return ctx.Err() != nil })
					if cause := context.Cause(ctx); !strings.Contains(fmt.Sprint(cause), "MaxHold") {
						t.Errorf("the cause is %v, which does not name MaxHold", cause)
					}
					return nil
				})
				if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "MaxHold") {
					t.Errorf("got %v, want context.DeadlineExceeded because of MaxHold", err)
				}
				if n := rows(t, db); n != 0 {
					t.Errorf("%d rows, want none", n)
				}
				if err := l.WithTx(t.Context(), hashkey.Name("k"), nothing); err != nil {
					t.Errorf("the next call: %v", err)
				}
			})
		})
	}
}

// Rule 8: a statement that hangs ends with fn's ctx, and then fn.
func TestMaxHoldEndsAStatement(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		o := paths[pathOf(t)]
		o.MaxHold = maxHold
		err := l.With(o).WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `select pg_sleep(3600)`)
			return err
		})
		if err == nil {
			t.Error("a statement that hangs is no error")
		}
	})
}

// Rule 8: a holder that is busy all the time is ended by transaction_timeout.
func TestMaxHoldEndsABusyHolder(t *testing.T) {
	t.Parallel()
	needsTransactionTimeout(t)
	for name, atHand := range map[string]string{"no limit": "0", "the role's": "1h"} {
		t.Run(name, func(t *testing.T) {
			onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
				alterRole(t, db, "transaction_timeout", atHand)
				o := paths[pathOf(t)]
				o.MaxHold = maxHold
				pool := openSame(t, db)
				err := xactlock.New(pool).With(o).WithTx(t.Context(), hashkey.Name("k"), func(_ context.Context, tx *sql.Tx) error {
					for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
						if _, err := tx.Exec(`select pg_sleep(0.01)`); err != nil {
							return nil
						}
					}
					t.Error("the server lets fn go on")
					return nil
				})
				if err == nil {
					t.Error("no error")
				}
			})
		})
	}
}

// Rule 8 is for one transaction: the connection knows nothing of it later.
func TestMaxHoldIsForOneTransaction(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		db.SetMaxOpenConns(1)
		o := paths[pathOf(t)]
		o.MaxHold, o.Grace = time.Hour, time.Hour
		const idle = "idle_in_transaction_session_timeout"
		const aLittleLater = "7200100ms" // after MaxHold and Grace: this process ends the session first
		var before, inside, after string
		err := errors.Join(
			db.QueryRow(`show `+idle).Scan(&before),
			l.With(o).WithTx(t.Context(), hashkey.Name("k"), func(_ context.Context, tx *sql.Tx) error {
				return tx.QueryRow(`show ` + idle).Scan(&inside)
			}),
			db.QueryRow(`show `+idle).Scan(&after),
		)
		if err != nil || inside != aLittleLater || after != before {
			t.Errorf("%s is %s before the call, %s inside and %s after; error %v", idle, before, inside, after, err)
		}
	})
}

// MaxHold and Grace bound a call, also where fn has returned and left a statement
// running.
func TestMaxHoldOfAStatementLeft(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	l := xactlock.New(db).With(xactlock.Options{MaxHold: 300 * time.Millisecond, Grace: 200 * time.Millisecond})
	err := l.WithTx(bounded(t), key, func(_ context.Context, tx *sql.Tx) error {
		go tx.Exec(`select pg_sleep(3600)`)
		untilOneSleeps(t, db)
		return nil
	})
	wantError(t, err, xactlock.ErrLost)
}
