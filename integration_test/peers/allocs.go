package main

import (
	"context"
	"database/sql"
	"errors"
	"runtime"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// allocations is what one call costs the garbage collector, with one UPDATE
// inside: a number for each round.
type allocations struct {
	cancellable bool // the context
	ours, hand  []float64
}

// measureAllocations compares WithTx with hand-written BeginTx, Exec, Commit,
// which takes no lock at all.
func (b *bench) measureAllocations(ctx context.Context) (all []allocations, err error) {
	b.say("allocations")
	p := b.server.place(0, 1, 1)
	defer func() { err = errors.Join(err, p.close()) }()
	cancellable, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, a := range []struct {
		allocations
		ctx context.Context
	}{
		{allocations{cancellable: true}, cancellable},
		{allocations{}, context.WithoutCancel(ctx)},
	} {
		if err := b.countAllocations(a.ctx, &a.allocations, p.db); err != nil {
			return nil, err
		}
		all = append(all, a.allocations)
	}
	return all, nil
}

func (b *bench) countAllocations(ctx context.Context, a *allocations, db *sql.DB) error {
	l, t := xactlock.New(db), turn{update: true}
	// Made once: what a closure of the caller's captures is the caller's.
	fn := func(ctx context.Context, tx *sql.Tx) error { return t.in(ctx, tx) }
	for range b.allocRounds {
		n, err := b.allocationsOf(func() error { return l.WithTx(ctx, hashkey.Int64(t.key), fn) })
		if err != nil {
			return err
		}
		a.ours = append(a.ours, n)
		n, err = b.allocationsOf(func() error { return t.transaction(ctx, db) })
		if err != nil {
			return err
		}
		a.hand = append(a.hand, n)
	}
	return nil
}

// allocationsOf returns how many allocations one call of f makes, once warm,
// in whatever goroutine.
func (b *bench) allocationsOf(f func() error) (float64, error) {
	for range 10 {
		if err := f(); err != nil {
			return 0, err
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range b.allocTurns {
		if err := f(); err != nil {
			return 0, err
		}
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(b.allocTurns), nil
}
