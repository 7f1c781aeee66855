package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// growth is what the library keeps after having seen many keys.
type growth struct {
	steps     []growthStep
	contended int64 // calls that had to wait
}

type growthStep struct {
	keys  int
	bytes int64 // live heap, compared with before the first key
}

// measureGrowth takes each of many keys once without and once with contention
// through one Locker, and weighs the heap on the way.
func (b *bench) measureGrowth(ctx context.Context) (g growth, err error) {
	p := b.server.place(0, poolSize, poolSize)
	defer func() { err = errors.Join(err, p.close()) }()
	var contended atomic.Int64
	l := xactlock.New(p.db).With(xactlock.Options{Observe: func(e xactlock.Event) {
		if e.Contended {
			contended.Add(1)
		}
	}})
	if err := p.fill(ctx); err != nil {
		return g, err
	}
	// What grows to its size once, such as the driver's buffers, does so now.
	if err := b.takeKeys(ctx, l, 0, 100); err != nil {
		return g, err
	}
	contended.Store(0)
	before, taken := liveHeap(), 0
	for _, keys := range b.growth {
		b.say("growth: %d keys", keys)
		if err := b.takeKeys(ctx, l, taken, keys); err != nil {
			return g, err
		}
		taken = keys
		g.steps = append(g.steps, growthStep{keys, liveHeap() - before})
	}
	g.contended = contended.Load()
	runtime.KeepAlive(l)
	return g, nil
}

// takeKeys takes the keys numbered from to to, as many at once as there are
// pairs of connections.
func (b *bench) takeKeys(ctx context.Context, l *xactlock.Locker, from, to int) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(poolSize / 2)
	for n := from; n < to && ctx.Err() == nil; n++ {
		g.Go(func() error { return b.takeKey(ctx, l, hashkey.Name(fmt.Sprint("key number ", n))) })
	}
	return g.Wait()
}

// takeKey takes a key twice: the second call begins, in a goroutine, while the
// first holds the lock, for long enough to find it taken.
func (b *bench) takeKey(ctx context.Context, l *xactlock.Locker, key hashkey.Key) error {
	second := make(chan error, 1)
	first := l.WithTx(ctx, key, func(context.Context, *sql.Tx) error {
		go func() {
			second <- l.WithTx(ctx, key, func(context.Context, *sql.Tx) error { return nil })
		}()
		return b.pauses.pause(500 * time.Microsecond)
	})
	if first != nil {
		return first
	}
	return <-second
}

// liveHeap is the heap that is in use after a collection. It takes two: what
// has a finalizer or sits in a sync.Pool goes with the second.
func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
