package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"
)

// A nemesis does harm, one fault after the other, while earlier ones go on.
type nemesis struct {
	*system
	crew *crew
	log  *journal
	r    *rand.Rand

	favourite kind // what every other fault is; none if it does nothing

	killed         time.Time      // when a worker was, the last time
	sincePromotion int            // faults that were chosen since the last promotion
	repairs        sync.WaitGroup // faults that are still to be undone

	mu     sync.Mutex
	busy   map[string]bool // guarded by mu: faults that are not to be done twice at once
	errs   []error         // guarded by mu: of what undoes faults
	counts map[string]int  // guarded by mu: how often each kind was done
}

func newNemesis(s *system, c *crew, log *journal, seed uint64, favourite kind) *nemesis {
	return &nemesis{
		system: s, crew: c, log: log, favourite: favourite, r: rand.New(rand.NewPCG(seed, 0)),
		busy: make(map[string]bool), counts: make(map[string]int),
	}
}

// errSkipped is a fault that found nothing to be done to.
var errSkipped = errors.New("skipped")

// A fault does its harm and returns. What has to be undone is undone later, by
// nemesis.later. It returns errSkipped if there was nothing to do it to.
type fault func(n *nemesis, ctx context.Context) error

// run does harm until ctx ends, and returns when all is undone.
func (n *nemesis) run(ctx context.Context) error {
	for {
		pause := time.Duration(50+n.r.IntN(500)) * time.Millisecond
		select {
		case <-ctx.Done():
			return n.end()
		case <-time.After(pause):
		}
		n.crew.checkAlive()
		n.checkHangUps()
		if err := n.strike(n.choose()); err != nil {
			return errors.Join(err, n.end())
		}
	}
}

// choose returns the next fault.
func (n *nemesis) choose() kind {
	if n.standby() != nil {
		n.sincePromotion++
	}
	switch {
	case n.sincePromotion > promoteAfter:
		return promotion
	case n.favourite.do != nil && n.r.IntN(2) == 0:
		return n.favourite
	}
	return pick(n.r, faults)
}

// checkHangUps reports cancel requests to PgBouncer whose clients hung up before
// PgBouncer did. Those of a worker that was killed must.
func (n *nemesis) checkHangUps() {
	const late = time.Second // in which the machine closes the sockets of who was killed
	for _, at := range n.pooled.takeHangUps() {
		if at.After(n.killed.Add(late)) {
			n.log.violation(0, 0, "a client hung up on its cancel request to PgBouncer, of which PgBouncer 1.18 crashes")
		}
	}
}

// end returns when all is undone.
func (n *nemesis) end() error {
	n.repairs.Wait()
	err := n.signalBouncer(syscall.Signal(0))
	if errors.Is(err, errCrashed) {
		err = n.restartBouncer()
	}
	return errors.Join(append(n.errs, err)...)
}

// strike does one fault. That the server was not there to be asked is no error:
// another fault has seen to that.
func (n *nemesis) strike(k kind) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n.log.add(event{What: evFault, Text: k.name})
	err := k.do(n, ctx)
	switch {
	case err == nil:
		n.count(k.name)
	case k.control && !errors.Is(err, errSkipped):
		return fmt.Errorf("%s: %w", k.name, err)
	}
	return nil
}

func (n *nemesis) count(what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.counts[what]++
}

// later undoes a fault after d, in the background. Then what was taken may be
// harmed again.
func (n *nemesis) later(what string, d time.Duration, undo func() error) {
	n.repairs.Go(func() {
		time.Sleep(d)
		err := undo()
		n.release(what)
		n.mu.Lock()
		defer n.mu.Unlock()
		if err != nil {
			n.errs = append(n.errs, fmt.Errorf("%s: %w", what, err))
		}
	})
}

// take reports whether what is not being harmed already, and marks it as being.
func (n *nemesis) take(what string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.busy[what] {
		return false
	}
	n.busy[what] = true
	return true
}

func (n *nemesis) release(what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.busy, what)
}

// some is a random time of up to limit milliseconds.
func (n *nemesis) some(limit int) time.Duration {
	return time.Duration(n.r.IntN(limit)) * time.Millisecond
}

func (n *nemesis) proxy() *proxy { return n.proxies()[n.r.IntN(3)] }

// place is that of a random worker.
func (n *nemesis) place() int { return n.r.IntN(n.crew.size()) }
