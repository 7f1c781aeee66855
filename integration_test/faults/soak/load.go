package main

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/pgxlock"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// pace is the pause of a goroutine between two calls. The load is steady if the
// machine is not what bounds it.
const pace = 20 * time.Millisecond

// A load is goroutines that make calls of all kinds until the context ends.
type load struct {
	db   *sql.DB
	pgx  *pgxpool.Pool
	all  sync.WaitGroup
	told counts
}

type counts struct{ succeeded, failed int64 }

func startLoad(ctx context.Context, dsn string) (*load, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	config.MaxConns = 5
	sessionlock.CancelStatements(config.ConnConfig)
	l := &load{db: stdlib.OpenDB(*config.ConnConfig)}
	l.db.SetMaxOpenConns(20)
	l.db.SetMaxIdleConns(20)
	if l.pgx, err = pgxpool.NewWithConfig(context.Background(), config); err != nil {
		return nil, errors.Join(err, l.db.Close())
	}
	for _, call := range calls(l.db, l.pgx) {
		for range 2 {
			l.all.Go(func() {
				for ctx.Err() == nil {
					l.count(call(ctx))
					select {
					case <-ctx.Done():
					case <-time.After(pace):
					}
				}
			})
		}
	}
	return l, nil
}

// calls are what the goroutines do, each for some names of few, and for one of
// ever new ones.
func calls(db *sql.DB, pool *pgxpool.Pool) []func(context.Context) error {
	x, s, p := xactlock.New(db), sessionlock.New(db), pgxlock.New(pool)
	few := func() hashkey.Key { return hashkey.Namespace("soak").ID(rand.Int64N(4)) }
	fresh := func() hashkey.Key { return hashkey.Namespace("fresh").ID(rand.Int64()) }
	section := func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `select pg_sleep(0.002)`)
		return err
	}
	session := func(ctx context.Context, conn *sql.Conn) error {
		_, err := conn.ExecContext(ctx, `select pg_sleep(0.002)`)
		return err
	}
	shareable := s.With(sessionlock.Options{Shareable: true})
	return []func(context.Context) error{
		func(ctx context.Context) error { return x.WithTx(ctx, few(), section) },
		func(ctx context.Context) error { return x.WithTx(ctx, fresh(), section) },
		func(ctx context.Context) error { return x.WithTxAll(ctx, []hashkey.Key{few(), few()}, section) },
		func(ctx context.Context) error { return x.WithSlot(ctx, few(), 2, section) },
		func(ctx context.Context) error {
			_, err := x.Exec(ctx, few(), `select pg_sleep(0.002)`)
			return err
		},
		func(ctx context.Context) error {
			return p.WithTx(ctx, few(), func(ctx context.Context, tx pgx.Tx) error {
				_, err := tx.Exec(ctx, `select pg_sleep(0.002)`)
				return err
			})
		},
		func(ctx context.Context) error {
			_, err := p.Exec(ctx, few(), `select pg_sleep(0.002)`)
			return err
		},
		func(ctx context.Context) error { // a wait that is given up
			ctx, cancel := context.WithTimeout(ctx, time.Duration(rand.IntN(5))*time.Millisecond)
			defer cancel()
			return x.WithTx(ctx, few(), section)
		},
		func(ctx context.Context) error { return s.WithLock(ctx, few(), session) },
		func(ctx context.Context) error {
			return shareable.WithLock(ctx, fresh(), func(context.Context, *sql.Conn) error { return nil })
		},
		func(ctx context.Context) error { // a leader that resigns
			return s.Lead(ctx, hashkey.Name("leader"), func(ctx context.Context) error {
				select {
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
				return nil
			})
		},
	}
}

func (l *load) count(err error) {
	if err == nil {
		atomic.AddInt64(&l.told.succeeded, 1)
	} else {
		atomic.AddInt64(&l.told.failed, 1)
	}
}

// end waits for all calls to return, after the context has ended.
func (l *load) end() counts {
	l.all.Wait()
	l.pgx.Close()
	_ = l.db.Close() // whatever is wrong with a connection, it is gone
	return l.told
}

// harm returns what does one fault after the other, one at each call. Each third
// of a run has about as many of each.
func harm(server *pgtest.Server) func(context.Context, *pgx.Conn) error {
	const some = ` from (select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid() order by random() limit 2) s`
	n := 0
	return func(ctx context.Context, admin *pgx.Conn) (err error) {
		switch n++; n % 4 {
		case 0:
			err = server.Control(ctx, "restart", "-m", "immediate")
		case 1, 3:
			_, err = admin.Exec(ctx, `select pg_terminate_backend(pid)`+some)
		case 2:
			_, err = admin.Exec(ctx, `select pg_cancel_backend(pid)`+some)
		}
		return err
	}
}
