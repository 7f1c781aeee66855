package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/goleak"
)

// workerVariable makes this program a worker.
const workerVariable = "PGADVISORY_FAULTS_WORKER"

// workerConfig is what a worker is told, in the variable.
type workerConfig struct {
	Dir    string // of the logs
	Number int    // no two workers of a run have the same
	Place  int    // a worker that takes over from a killed one has its place
	Seed   uint64
	Broken string
	Direct string // DSNs
	Pooled string
	Wire   string
}

// asWorker runs a worker, if this process is to be one, and returns its exit
// code.
func asWorker() (code int, ok bool) {
	text, ok := os.LookupEnv(workerVariable)
	if !ok {
		return 0, false
	}
	var config workerConfig
	err := json.Unmarshal([]byte(text), &config)
	if err == nil {
		err = runWorker(config, os.Stdin)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		return 1, true
	}
	return 0, true
}

// A worker is a process that makes calls of all kinds.
type worker struct {
	workerConfig
	*journal
	locks   locks
	pools   map[string]*pool
	ops     atomic.Int64 // operations begun
	stopped atomic.Bool  // no more random calls

	mu      sync.Mutex
	running map[int64]time.Time // guarded by mu: when operations began
}

func runWorker(config workerConfig, control io.Reader) error {
	w := &worker{workerConfig: config, pools: make(map[string]*pool), running: make(map[int64]time.Time)}
	var err error
	if w.locks, err = locksFor(config.Broken); err != nil {
		return err
	}
	if w.journal, err = openJournal(config.Dir, fmt.Sprintf("worker-%03d", config.Number)); err != nil {
		return err
	}
	if err := w.openPools(); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var watching sync.WaitGroup
	watching.Go(func() { w.watch(ctx) })
	if err := w.mix(control); err != nil {
		return err
	}
	w.calm()
	if err := w.closePools(); err != nil {
		return err
	}
	stop()
	watching.Wait()
	if err := goleak.Find(goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener")); err != nil {
		w.violation(0, 0, "a worker has goroutines left: %v", err)
	}
	return w.close()
}

// openPools opens the worker's pools. None has more connections than the
// goroutines that use it need, as each costs the machine a lot.
func (w *worker) openPools() error {
	for _, p := range []struct {
		via, dsn string
		size     int
	}{
		{viaDirect, w.Direct, mixers + 2},
		{viaPooled, w.Pooled, mixers},
		{viaSession, w.Direct, sessionMixers + leadKeys + 2},
		{viaWire, w.Wire, 1},
	} {
		pool, err := openPool(p.dsn, p.size)
		if err != nil {
			return err
		}
		w.pools[p.via] = pool
	}
	return nil
}

func (w *worker) closePools() error {
	var errs []error
	for via, p := range w.pools {
		w.awaitIdle(via, func() int { return p.db.Stats().InUse })
		if w.awaitIdle("pgx "+via, func() int { return int(p.pgx.Stat().AcquiredConns()) }) {
			p.pgx.Close() // which waits for connections that are in use
		}
		errs = append(errs, p.db.Close())
	}
	return errors.Join(errs...)
}

// awaitIdle waits until no connection of a pool is in use. It reports a
// violation, and returns false, if some still are after all calls.
func (w *worker) awaitIdle(pool string, inUse func() int) bool {
	for end := time.Now().Add(calmBound); inUse() > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.violation(0, 0, "%d connections of the pool %s are in use after all calls", inUse(), pool)
			return false
		}
	}
	return true
}

// How many goroutines of a worker make random calls.
const (
	mixers        = 4
	sessionMixers = 2
)

// mix makes random calls until control says "calm". A control that ends means
// that there is no run any more.
func (w *worker) mix(control io.Reader) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var all sync.WaitGroup
	for i := range mixers {
		all.Go(func() { w.loop(ctx, w.random(i), randomTransaction) })
	}
	for i := range sessionMixers {
		all.Go(func() { w.loop(ctx, w.random(mixers+i), randomSession) })
	}
	for i := range leadKeys {
		all.Go(func() { w.lead(ctx, w.random(20+i), firstLead+i) })
	}
	all.Go(func() { w.loop(ctx, w.random(30), w.randomIdle) })
	line, err := bufio.NewReader(control).ReadString('\n')
	if err != nil || line != "calm\n" {
		return fmt.Errorf("the run is gone (%q, %v)", line, err)
	}
	w.stopped.Store(true)
	cancel()
	all.Wait()
	return nil
}

// random is the source of one goroutine's choices.
func (w *worker) random(goroutine int) *rand.Rand {
	return rand.New(rand.NewPCG(w.Seed, uint64(w.Number)<<16|uint64(goroutine)))
}

// randomIdle is a long hold of the worker's own key.
func (w *worker) randomIdle(r *rand.Rand) call {
	c := call{Verb: "WithTx", Keys: []int{firstIdle + w.Place}, Via: viaWire, Style: styleIdle}
	switch r.IntN(4) {
	case 0:
		c.Pgx = true
	case 1, 2:
		c.Verb = "session WithLock"
	}
	return c
}

// loop makes calls one after the other. Only those that may take long end with
// ctx.
func (w *worker) loop(ctx context.Context, r *rand.Rand, choose func(*rand.Rand) call) {
	for !w.stopped.Load() {
		c := choose(r)
		opCtx := ctx
		if c.Style != styleIdle {
			opCtx = context.WithoutCancel(ctx)
		}
		if outcome := w.perform(opCtx, r, c); outcome == failed || outcome == lost || outcome == unknown {
			time.Sleep(time.Duration(5+r.IntN(20)) * time.Millisecond) // the server may be away
		}
	}
}

func (w *worker) operation(r *rand.Rand, c call) *operation {
	o := &operation{
		call: c, journal: w.journal, locks: w.locks, pool: w.pools[c.Via], work: onSQL{w.pools[viaDirect].db}, r: r,
		id: int64(w.Number)*1e9 + w.ops.Add(1),
	}
	o.call.observed = o.observed
	return o
}

func (w *worker) perform(ctx context.Context, r *rand.Rand, c call) string {
	o := w.operation(r, c)
	w.began(o.id)
	defer w.ended(o.id)
	return o.run(ctx)
}

func (w *worker) began(op int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running[op] = time.Now()
}

func (w *worker) ended(op int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.running, op)
}

// lead campaigns for the leadership of a key, again and again.
func (w *worker) lead(ctx context.Context, r *rand.Rand, key int) {
	for !w.stopped.Load() {
		err := w.campaign(ctx, r, key)
		if ctx.Err() == nil && !errors.Is(err, errTermOver) {
			w.violation(0, key, "Lead gave up: %v", err)
		}
	}
}

// campaign leads once, or more often where the leadership gets lost.
func (w *worker) campaign(ctx context.Context, r *rand.Rand, key int) error {
	c := call{Verb: "session Lead", Keys: []int{key}, Via: viaSession, Style: styleFenced}
	return w.locks.session(ctx, w.pools[c.Via], &c, func(ctx context.Context, k held) error {
		o := w.operation(r, c)
		w.began(o.id)
		defer w.ended(o.id)
		o.log(event{What: evBegin, Call: &c})
		o.log(event{What: evEnter})
		err := o.lead(ctx, k)
		o.log(event{What: evLeave})
		// Whether the lock was held until then, Lead does not tell.
		o.log(event{What: evEnd, Outcome: rolledBack, Text: err.Error()})
		if ctx.Err() != nil {
			return err
		}
		return errTermOver
	})
}

// watch notes when the process did not run, and calls that hang.
func (w *worker) watch(ctx context.Context) {
	const tick = 100 * time.Millisecond
	hung := false
	for last := clock(); ctx.Err() == nil; {
		time.Sleep(tick)
		now := clock()
		if now-last > int64(3*tick) {
			w.add(event{At: last, What: evStall, Until: now, N: int64(w.Number)})
		}
		last = now
		if op := w.oldest(); op != 0 && !hung {
			hung = true
			w.violation(op, 0, "a call has not returned within %v", 2*patience)
			stacks := make([]byte, 1<<20)
			_, _ = os.Stderr.Write(stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// oldest returns an operation that has run for too long, or 0.
func (w *worker) oldest() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	for op, began := range w.running {
		if time.Since(began) > 2*patience {
			return op
		}
	}
	return 0
}

// calmBound is within what time everything must work, once the faults are over.
const calmBound = 30 * time.Second

// calm makes every kind of call on every key, which must all succeed now.
func (w *worker) calm() {
	var all sync.WaitGroup
	step := func(number int, c call) {
		all.Go(func() { w.mustSucceed(w.random(1000+number), c) })
	}
	for key := range registers {
		step(key, call{Verb: "WithTx", Keys: []int{key}, Via: viaDirect, Style: styleWrite})
		step(10+key, call{Verb: "WithTx", Keys: []int{key}, Via: viaPooled, Style: styleWrite, Level: sql.LevelRepeatableRead})
		step(40+key, call{Verb: "WithTx", Keys: []int{key}, Via: viaDirect, Style: styleWrite, Pgx: true})
		step(50+key, call{Verb: "WithTx", Keys: []int{key}, Via: viaPooled, Style: styleWrite, Level: sql.LevelRepeatableRead, Pgx: true})
		step(20+key, call{Verb: "session WithLock", Keys: []int{key}, Via: viaSession, Style: styleRead})
	}
	for key := range slotKeys {
		step(30+key, call{Verb: "WithSlot", Keys: []int{firstSlots + key}, Via: viaPooled, Style: styleOccupy})
	}
	for key := range leadKeys {
		all.Go(func() { w.mustLead(firstLead + key) })
	}
	all.Wait()
}

func (w *worker) mustSucceed(r *rand.Rand, c call) {
	outcome := ""
	for end := time.Now().Add(calmBound); time.Now().Before(end); {
		if outcome = w.perform(context.Background(), r, c); outcome == committed {
			return
		}
	}
	w.violation(0, c.Keys[0], "%v after the last fault: %v still fails: %s", calmBound, &c, outcome)
}

func (w *worker) mustLead(key int) {
	ctx, cancel := context.WithTimeout(context.Background(), calmBound)
	defer cancel()
	if err := w.campaign(ctx, w.random(1100+key), key); !errors.Is(err, errTermOver) {
		w.violation(0, key, "%v after the last fault: no leader: %v", calmBound, err)
	}
}

// environment is that of a worker.
func (c workerConfig) environment() (string, error) {
	text, err := json.Marshal(c)
	return workerVariable + "=" + string(text), err
}

// name is the worker's in messages.
func (c workerConfig) name() string { return "worker " + strconv.Itoa(c.Number) }
