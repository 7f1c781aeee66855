package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/pgadvisory/pgadvisory/xactlock"
)

// demo runs the service once for each variant, under the same load, and prints
// a table of what became of the withdrawals.
type demo struct {
	dsn   string // of a server, where the demo makes databases of its own
	style style
	load  load
	out   io.Writer
	log   *slog.Logger
}

// fullLoad is that of the demonstration. There are more accounts than
// connections and some clients for each account, so that there is always
// somebody to take the connection that another one should have had back. The
// wait is long for withdrawals of some milliseconds: who is not served within
// it is not going to be.
var fullLoad = load{
	accounts: 16,
	clients:  64,
	requests: 800,
	think:    3 * time.Millisecond,
	wait:     2 * time.Second,
}

// variant is one way to take turns.
type variant struct {
	name     string
	accounts func(p *pools, l load) accountStore
	check    func(outcome) error // returns why an outcome is not as expected
}

// variants returns the two mistakes, and the style.
func variants(s style) []variant {
	return []variant{
		{
			name: "WRONG: no lock",
			accounts: func(p *pools, l load) accountStore {
				return &sqlAccounts{db: p.db, locker: wrongNoLock{p.db}, think: l.think}
			},
			check: losesUpdates,
		},
		{
			name: "WRONG: session lock, pooled",
			accounts: func(p *pools, l load) accountStore {
				return &sqlAccounts{db: p.db, locker: wrongPooledLock{p.db, l.wait}, think: l.think}
			},
			check: leavesLocks,
		},
		right(s),
	}
}

// right is the variant of a style.
func right(s style) variant {
	return variant{
		name: s.row,
		accounts: func(p *pools, l load) accountStore {
			return s.accounts(p, xactlock.Options{Wait: l.wait, MaxHold: maxHold}, l.think)
		},
		check: isFlawless,
	}
}

// run runs the demonstration. Its error says what was not as expected.
func (d *demo) run(ctx context.Context) error {
	printIntro(d.out, d.load)
	var outcomes []outcome
	var unexpected []error
	for _, v := range variants(d.style) {
		o, err := d.measure(ctx, v)
		if err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
		printRow(d.out, v.name, o)
		if err := v.check(o); err != nil {
			unexpected = append(unexpected, fmt.Errorf("%s: unexpectedly, %w", v.name, err))
		}
		outcomes = append(outcomes, o)
	}
	if len(unexpected) > 0 {
		return errors.Join(unexpected...)
	}
	printConclusion(d.out, outcomes)
	return nil
}

// measure loads the service with the variant, on a database of its own, and
// looks at what is left when all requests have ended.
func (d *demo) measure(ctx context.Context, v variant) (o outcome, err error) {
	p, drop, err := newDatabase(ctx, d.dsn, d.style.name)
	if err != nil {
		return outcome{}, err
	}
	defer func() { err = errors.Join(err, drop()) }()
	if err := createSchema(ctx, xactlock.New(p.db)); err != nil {
		return outcome{}, err
	}
	store := v.accounts(p, d.load)
	for id := range d.load.accounts {
		if err := store.open(ctx, int64(id), d.load.openingBalance()); err != nil {
			return outcome{}, err
		}
	}
	answers, err := d.serveAndLoad(ctx, store)
	if err != nil {
		return outcome{}, err
	}
	return d.assess(ctx, p.db, answers)
}

// serveAndLoad serves store on a free port while the clients are at it. When
// it returns, no request is left in the service.
func (d *demo) serveAndLoad(ctx context.Context, store accountStore) ([]answer, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	a := &api{accounts: store, log: d.log}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	served := make(chan error, 1)
	go func() { served <- serve(serving, listener, a.routes(), d.log) }()
	answers, err := d.load.run(ctx, "http://"+listener.Addr().String())
	stop()
	if err := errors.Join(err, <-served); err != nil {
		return nil, err
	}
	return answers, nil
}

// assess compares what the clients were told with what the database says.
func (d *demo) assess(ctx context.Context, db *sql.DB, answers []answer) (outcome, error) {
	o := tally(answers)
	served := o.requests - o.stuck
	withdrawn, err := queryInt(ctx, db,
		`select $1 - sum(balance)::bigint from accounts`, int64(d.load.accounts)*d.load.openingBalance())
	if err != nil {
		return outcome{}, err
	}
	o.lost = served - withdrawn
	// Nobody but the service's pool is connected to this database.
	o.left, err = queryInt(ctx, db, `select count(*) from pg_locks where locktype = 'advisory'
		and database = (select oid from pg_database where datname = current_database())`)
	return o, err
}

func queryInt(ctx context.Context, db *sql.DB, query string, args ...any) (n int, err error) {
	err = db.QueryRowContext(ctx, query, args...).Scan(&n)
	return n, err
}
