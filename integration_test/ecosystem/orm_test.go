package ecosystem

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"sync"
	"testing"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"
	"github.com/jmoiron/sqlx"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/integration_test/ecosystem/ent"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// orm checks WithTxOf, Lock and TryLock on another library's type of transaction.
// add adds one to the counter, by reading and writing it through the library.
func orm[T xactlock.Tx](t *testing.T, open func(t *testing.T, db *sql.DB) (begin func(context.Context) (T, error), add func(context.Context, T) error)) {
	t.Parallel() // they wait most of the time
	dsn := pgtest.New(t).Scratch(t)
	s := &setting{watcher: openPgx(t, dsn), db: openPgx(t, dsn), other: openPgx(t, dsn)}
	s.l, s.otherL = xactlock.New(s.db), xactlock.New(s.other)
	exec(t, s.watcher, `create table counter (n int)`)
	exec(t, s.watcher, `insert into counter values (0)`)
	begin, add := open(t, s.db)

	t.Run("turns", func(t *testing.T) {
		const goroutines, turns = 4, 5
		errs := make([]error, goroutines)
		var group sync.WaitGroup
		for i := range goroutines {
			group.Go(func() {
				for range turns {
					errs[i] = errors.Join(errs[i], xactlock.WithTxOf(t.Context(), s.l, key, begin, add),
						s.otherL.WithTx(t.Context(), key, increment))
				}
			})
		}
		group.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Error(err)
		}
		if n := number(t, s.watcher, `select n from counter`); n != 2*goroutines*turns {
			t.Errorf("n = %d after %d increments", n, 2*goroutines*turns)
		}
		s.nothingLeft(t)
	})
	exec(t, s.watcher, `update counter set n = 0`)

	t.Run("a wait of some slices", func(t *testing.T) {
		for _, key := range []hashkey.Key{key, hashkey.Pair(-1, 2)} {
			done := make(chan error, 1)
			begun := make(chan struct{}, 100)
			err := s.otherL.WithTx(t.Context(), key, func(context.Context, *sql.Tx) error {
				go func() {
					done <- xactlock.WithTxOf(t.Context(), s.l, key, func(ctx context.Context) (T, error) {
						begun <- struct{}{}
						return begin(ctx)
					}, func(context.Context, T) error { return nil })
				}()
				for range 2 {
					<-begun
				}
				return nil
			})
			if err := errors.Join(err, <-done); err != nil {
				t.Error(err)
			}
			s.nothingLeft(t)
		}
	})

	t.Run("error", func(t *testing.T) {
		err := xactlock.WithTxOf(t.Context(), s.l, key, begin, func(ctx context.Context, tx T) error {
			if err := add(ctx, tx); err != nil {
				t.Error(err)
			}
			if err := s.otherL.TryWithTx(t.Context(), key, unreachable(t)); !errors.Is(err, xactlock.ErrNotAcquired) {
				t.Errorf("another one meanwhile: %v, want ErrNotAcquired", err)
			}
			return errExpected
		})
		if !errors.Is(err, errExpected) {
			t.Errorf("got %v, want fn's error", err)
		}
		s.unchanged(t)
		s.nothingLeft(t)
	})

	t.Run("failed statement", func(t *testing.T) {
		err := xactlock.WithTxOf(t.Context(), s.l, key, begin, func(ctx context.Context, tx T) error {
			if _, err := tx.ExecContext(ctx, `select 1/0`); err == nil {
				t.Error("1/0 is a number")
			}
			if err := s.otherL.TryWithTx(t.Context(), key, unreachable(t)); !errors.Is(err, xactlock.ErrNotAcquired) {
				t.Errorf("another one meanwhile: %v, want ErrNotAcquired", err)
			}
			return nil
		})
		if err == nil || errors.Is(err, xactlock.ErrCommitUnknown) {
			t.Errorf("got %v, want an error that says nothing is committed", err)
		}
		s.nothingLeft(t)
	})

	t.Run("ended inside", func(t *testing.T) {
		for name, end := range map[string]func(context.Context, T) error{
			"Commit":   func(_ context.Context, tx T) error { return tx.Commit() },
			"Rollback": func(_ context.Context, tx T) error { return tx.Rollback() },
			"text":     func(ctx context.Context, tx T) error { _, err := tx.ExecContext(ctx, `commit`); return err },
		} {
			if err := xactlock.WithTxOf(t.Context(), s.l, key, begin, end); !errors.Is(err, xactlock.ErrTxEnded) {
				t.Errorf("%s: got %v, want ErrTxEnded", name, err)
			}
			s.nothingLeft(t)
		}
	})

	t.Run("Lock and TryLock", func(t *testing.T) {
		keys := []hashkey.Key{hashkey.Int64(-1 << 63), hashkey.Pair(-1, 2), key}
		for _, keys := range [][]hashkey.Key{keys, keys[:1], keys[1:2]} {
			one, other := beginFor(t, begin), beginFor(t, begin)
			if err := s.l.Lock(t.Context(), one, keys...); err != nil {
				t.Fatal(err)
			}
			if n := s.held(t); n != len(keys) {
				t.Errorf("%d locks are held, want %d", n, len(keys))
			}
			if ok, err := s.l.TryLock(t.Context(), other, slices.Concat(keys, []hashkey.Key{hashkey.Int64(1)})...); ok || err != nil {
				t.Errorf("a try of what is held: %t, %v", ok, err)
			}
			if n := s.held(t); n != len(keys) {
				t.Errorf("%d locks are held after the try, want %d", n, len(keys))
			}
			if err := one.Commit(); err != nil {
				t.Error(err)
			}
			if ok, err := s.l.TryLock(t.Context(), other, keys...); !ok || err != nil {
				t.Errorf("a try of what is free: %t, %v", ok, err)
			}
			if n := s.held(t); n != len(keys) {
				t.Errorf("%d locks are held, want %d", n, len(keys))
			}
			if err := other.Commit(); err != nil {
				t.Error(err)
			}
			s.nothingLeft(t)
		}
	})
}

func beginFor[T xactlock.Tx](t *testing.T, begin func(context.Context) (T, error)) T {
	t.Helper()
	tx, err := begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

func TestBun(t *testing.T) {
	orm(t, func(t *testing.T, db *sql.DB) (func(context.Context) (bun.Tx, error), func(context.Context, bun.Tx) error) {
		b := bun.NewDB(db, pgdialect.New())
		return func(ctx context.Context) (bun.Tx, error) { return b.BeginTx(ctx, nil) },
			func(ctx context.Context, tx bun.Tx) error {
				var n int
				if err := tx.NewSelect().Table("counter").Column("n").Scan(ctx, &n); err != nil {
					return err
				}
				_, err := tx.NewUpdate().Table("counter").Set("n = ?", n+1).Where("true").Exec(ctx)
				return err
			}
	})
}

func TestSqlx(t *testing.T) {
	orm(t, func(t *testing.T, db *sql.DB) (func(context.Context) (*sqlx.Tx, error), func(context.Context, *sqlx.Tx) error) {
		x := sqlx.NewDb(db, "pgx")
		return func(ctx context.Context) (*sqlx.Tx, error) { return x.BeginTxx(ctx, nil) },
			func(ctx context.Context, tx *sqlx.Tx) error {
				var n int
				if err := tx.GetContext(ctx, &n, `select n from counter`); err != nil {
					return err
				}
				_, err := tx.NamedExecContext(ctx, `update counter set n = :n`, map[string]any{"n": n + 1})
				return err
			}
	})
}

// What ent generates with its feature sql/execquery is a transaction, and its
// Commit calls hooks.
func TestEnt(t *testing.T) {
	orm(t, func(t *testing.T, db *sql.DB) (func(context.Context) (*ent.Tx, error), func(context.Context, *ent.Tx) error) {
		client := ent.NewClient(ent.Driver(entsql.OpenDB(dialect.Postgres, db)))
		hook := func(next ent.Committer) ent.Committer { return next }
		return func(ctx context.Context) (*ent.Tx, error) {
				tx, err := client.Tx(ctx)
				if err == nil {
					tx.OnCommit(hook)
				}
				return tx, err
			}, func(ctx context.Context, tx *ent.Tx) error {
				rows, err := tx.QueryContext(ctx, `select n from counter`)
				if err != nil {
					return err
				}
				defer rows.Close()
				n, err := entsql.ScanInt(rows)
				if err != nil {
					return err
				}
				_, err = tx.ExecContext(ctx, `update counter set n = $1`, n+1)
				return err
			}
	})
}

func openGorm(t *testing.T, db *sql.DB, prepared bool) *gorm.DB {
	t.Helper()
	g, err := gorm.Open(postgres.New(postgres.Config{Conn: db}), &gorm.Config{PrepareStmt: prepared, Logger: logger.Discard})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func addByGorm(tx *gorm.DB) error {
	var n int
	if err := tx.Raw(`select n from counter`).Scan(&n).Error; err != nil {
		return err
	}
	return tx.Exec(`update counter set n = ?`, n+1).Error
}

func TestGorm(t *testing.T) {
	for name, prepared := range map[string]bool{"plain": false, "prepared": true} {
		t.Run(name, func(t *testing.T) {
			orm(t, func(t *testing.T, db *sql.DB) (func(context.Context) (gormTx, error), func(context.Context, gormTx) error) {
				g := openGorm(t, db, prepared)
				return func(ctx context.Context) (gormTx, error) {
						tx := g.WithContext(ctx).Begin()
						return gormTx{tx}, tx.Error
					}, func(ctx context.Context, tx gormTx) error {
						return addByGorm(tx.WithContext(ctx))
					}
			})
		})
	}
}

// gorm's own connection is a transaction as well.
func TestGormPreparedStmtTX(t *testing.T) {
	orm(t, func(t *testing.T, db *sql.DB) (func(context.Context) (*gorm.PreparedStmtTX, error), func(context.Context, *gorm.PreparedStmtTX) error) {
		g := openGorm(t, db, true)
		return func(ctx context.Context) (*gorm.PreparedStmtTX, error) {
				tx := g.WithContext(ctx).Begin()
				pool, _ := tx.Statement.ConnPool.(*gorm.PreparedStmtTX)
				return pool, tx.Error
			}, func(ctx context.Context, tx *gorm.PreparedStmtTX) error {
				session := g.Session(&gorm.Session{NewDB: true, Context: ctx})
				session.Statement.ConnPool = tx
				return addByGorm(session)
			}
	})
}

// Keys leave no prepared statement each.
func TestGormPreparesNoKeys(t *testing.T) {
	db := openPgx(t, pgtest.New(t).Scratch(t))
	g := openGorm(t, db, true)
	statements := func(i int) int {
		l, keys := xactlock.New(db), []hashkey.Key{hashkey.Int64(int64(i)), hashkey.Int64(int64(-i - 1)), hashkey.Pair(1, int32(i))}
		tx := g.Begin()
		pool := tx.Statement.ConnPool.(*gorm.PreparedStmtTX)
		ok, err := l.TryLock(t.Context(), pool, keys...)
		if err := errors.Join(err, l.Lock(t.Context(), pool, keys...), tx.Commit().Error); !ok || err != nil {
			t.Fatal(err)
		}
		return len(pool.PreparedStmtDB.Stmts.Keys())
	}
	first := statements(0)
	if again := statements(1); again != first || first == 0 {
		t.Errorf("%d statements are prepared, and with other keys %d", first, again)
	}
}

// A wrapper that hides that its texts are prepared is told what to do.
func TestHiddenPreparedTransaction(t *testing.T) {
	db := openPgx(t, pgtest.New(t).Scratch(t))
	tx := openGorm(t, db, true).Begin()
	defer tx.Rollback()
	hidden := struct{ xactlock.Tx }{tx.Statement.ConnPool.(*gorm.PreparedStmtTX)}
	err := xactlock.New(db).Lock(t.Context(), hidden, key)
	if err == nil || !containsAll(err.Error(), "GetDBConn", "42601") {
		t.Errorf("got %v, want an error that says what to do", err)
	}
}
