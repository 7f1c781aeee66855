package integration_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pgadvisory/pgadvisory/pgxlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// panicsAfter is a tracer of pgx's that panics when a text has been executed.
type panicsAfter string

type textKey struct{}

func (panicsAfter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	return context.WithValue(ctx, textKey{}, d.SQL)
}

func (p panicsAfter) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	if ctx.Value(textKey{}) == string(p) {
		panic(errExpected)
	}
}

// hooked is a transaction whose Commit runs a hook that panics.
type hooked struct{ *sql.Tx }

func (h hooked) Commit() error {
	_ = h.Tx.Commit()
	panic(errExpected)
}

// A panic after COMMIT reaches the caller, whose event does not say that nothing
// is committed.
func TestPanicAfterCommit(t *testing.T) {
	t.Parallel()
	watcher := newDB(t)
	exec(t, watcher, `create table t (n int)`)
	config := func(after string) *pgx.ConnConfig {
		c, err := pgx.ParseConfig(dsnOf(t, watcher))
		if err != nil {
			t.Fatal(err)
		}
		c.Tracer = panicsAfter(after)
		return c
	}
	var e xactlock.Event
	o := xactlock.Options{Observe: func(x xactlock.Event) { e = x }}
	const insertOne = `insert into t values (1)`
	pgxInsert := func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, insertOne); return err }
	for name, call := range map[string]func() error{
		"pgxlock": func() error {
			return pgxlock.New(openPool(t, config("release savepoint pgadvisory; commit"))).With(o).WithTx(t.Context(), key, pgxInsert)
		},
		"Exec": func() error {
			_, err := pgxlock.New(openPool(t, config(insertOne))).With(o).Exec(t.Context(), key, insertOne)
			return err
		},
		"plain": func() error {
			db := stdlib.OpenDB(*config("commit")) // of which a connection stays in use
			t.Cleanup(func() { db.Close() })
			o := o
			o.Plain = true
			return xactlock.New(db).With(o).WithTx(t.Context(), key, insert)
		},
		"WithTxOf": func() error {
			begin := func(ctx context.Context) (hooked, error) {
				tx, err := watcher.BeginTx(ctx, nil)
				return hooked{tx}, err
			}
			return xactlock.WithTxOf(t.Context(), xactlock.New(watcher).With(o), key, begin, func(ctx context.Context, tx hooked) error {
				return insert(ctx, tx.Tx)
			})
		},
	} {
		exec(t, watcher, `truncate t`)
		panicked, err := returned(t, call)
		if n := rows(t, watcher); panicked != errExpected || n != 1 || e.Outcome != xactlock.Unknown {
			t.Errorf("%s: panic %v, error %v, %d rows, outcome %v", name, panicked, err, n, e.Outcome)
		}
		noTrace(t, watcher)
	}
}

// A panic in Rollback, with database/sql alone, reaches the caller and frees the
// lock.
func TestPanicInRollback(t *testing.T) {
	t.Parallel()
	watcher := newDB(t)
	config, err := pgx.ParseConfig(dsnOf(t, watcher))
	if err != nil {
		t.Fatal(err)
	}
	config.Tracer = panicsAfter("rollback")
	db := stdlib.OpenDB(*config) // of which a connection stays in use
	t.Cleanup(func() { db.Close() })
	panicked, err := returned(t, func() error {
		return xactlock.New(db).With(xactlock.Options{Plain: true}).WithTx(t.Context(), key, func(context.Context, *sql.Tx) error { return sql.ErrNoRows })
	})
	if panicked != errExpected {
		t.Errorf("panic %v, error %v", panicked, err)
	}
	noTrace(t, watcher)
}

// A Commit that hangs, for a RawBytes of rows that are open, is given up some time
// after ctx's end. It is executed when the rows are closed at last.
func TestWithTxOfCommitHangs(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var open *sql.Rows
	_, err := returned(t, func() error {
		return withTxOf(ctx, db, xactlock.New(db), key, func(ctx context.Context, tx *sql.Tx) (err error) {
			open, err = tx.QueryContext(context.WithoutCancel(ctx), `select 'a' from generate_series(1, 100000)`)
			var raw sql.RawBytes
			if err == nil && open.Next() {
				err = open.Scan(&raw)
			}
			return err
		})
	})
	wantError(t, err, xactlock.ErrCommitUnknown)
	wantError(t, err, context.DeadlineExceeded)
	_ = open.Close() // fails where the driver's connection is closed
	noTrace(t, db)
}
