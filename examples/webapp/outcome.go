package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// outcome is what became of the requests of one run.
type outcome struct {
	requests  int
	lost      int             // withdrawals that a client was told of and that are in no balance
	stuck     int             // requests that did not get the lock in time
	left      int             // locks that are still held, with all requests ended
	latencies []time.Duration // of all requests, sorted
}

// tally counts what the clients themselves can tell.
func tally(answers []answer) outcome {
	o := outcome{requests: len(answers)}
	for _, a := range answers {
		o.latencies = append(o.latencies, a.latency)
		if a.stuck {
			o.stuck++
		}
	}
	slices.Sort(o.latencies)
	return o
}

func losesUpdates(o outcome) error {
	if o.lost <= 0 {
		return errors.New("no update was lost")
	}
	return nil
}

func leavesLocks(o outcome) error {
	if o.left <= 0 {
		return errors.New("no lock was left behind")
	}
	return nil
}

func isFlawless(o outcome) error {
	if o.lost != 0 || o.stuck != 0 || o.left != 0 {
		return fmt.Errorf("%d updates lost, %d requests stuck, %d locks left behind", o.lost, o.stuck, o.left)
	}
	return nil
}

// percentile returns the latency that p of 100 requests do not exceed.
func (o outcome) percentile(p int) time.Duration {
	if len(o.latencies) == 0 {
		return 0
	}
	return o.latencies[(len(o.latencies)*p+99)/100-1]
}

func printIntro(w io.Writer, l load) {
	fmt.Fprintf(w, "%d clients make %d withdrawals from %d accounts, through a pool of %d connections.\n",
		l.clients, l.requests, l.accounts, poolSize)
	fmt.Fprintf(w, "A request that does not get its lock within %v is stuck.\n\n", l.wait)
	fmt.Fprintf(w, "%-27s  %8s  %12s  %14s  %17s  %9s  %9s\n",
		"", "requests", "lost updates", "requests stuck", "locks left behind", "p50", "p99")
}

func printRow(w io.Writer, name string, o outcome) {
	fmt.Fprintf(w, "%-27s  %8d  %12d  %14d  %17d  %9s  %9s\n",
		name, o.requests, o.lost, o.stuck, o.left, millis(o.percentile(50)), millis(o.percentile(99)))
}

func millis(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", d.Seconds()*1000)
}

// printConclusion says in words what the table shows: the outcomes of variants.
func printConclusion(w io.Writer, outcomes []outcome) {
	noLock, pooled := outcomes[0], outcomes[1]
	fmt.Fprintf(w, `
Without a lock, %d withdrawals that were answered with 200 are overwritten by others. The pooled
session lock is unlocked on another connection than the one that holds it: %d locks stay behind, which
stop %d requests, and let in whoever happens to get their connection (%d updates lost). In the last row
lock and writes share one transaction: every withdrawal is in the balance, and nothing stays behind.
`, noLock.lost, pooled.left, pooled.stuck, pooled.lost)
}
