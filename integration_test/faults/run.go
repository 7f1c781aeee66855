package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
)

// options is what a run is told.
type options struct {
	length  time.Duration
	seed    uint64
	workers int
	broken  string // an imitation, whose mistake ends the run; "" for the library
	keep    bool   // the logs stay
	parent  string // of the directory of the logs; "" for the usual one
	out     io.Writer
}

// standby tells whether PostgreSQL has a standby, which is promoted now and then:
// not in a short run, as it costs time to start.
func (o options) standby() bool { return o.length >= time.Minute && o.broken == "" }

// A run is all that is there for one time.
type run struct {
	options
	dir     string
	log     *journal
	system  *system
	crew    *crew
	nemesis *nemesis
}

// execute makes a run and returns its report. An error is one of this program
// or the machine, not a violation.
func execute(ctx context.Context, o options) (rep *report, err error) {
	r := &run{options: o}
	if r.dir, err = os.MkdirTemp(o.parent, "faults-"); err != nil {
		return nil, err
	}
	defer func() {
		if err == nil && len(rep.violations) == 0 && !o.keep {
			err = os.RemoveAll(r.dir)
		} else {
			fmt.Fprintln(o.out, "the logs are in", r.dir)
		}
	}()
	if r.log, err = openJournal(r.dir, "run"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.log.close()) }()
	start, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if r.system, err = startSystem(start, o.standby()); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.system.close()) }()
	return r.execute(ctx)
}

func (r *run) execute(ctx context.Context) (*report, error) {
	began := time.Now()
	crew, err := newCrew(workerConfig{
		Dir: r.dir, Seed: r.seed, Broken: r.broken,
		Direct: r.system.directDSN(), Pooled: r.system.pooledDSN(), Wire: r.system.wireDSN(),
	}, r.log, r.workers)
	defer crew.end()
	if err != nil {
		return nil, err
	}
	r.crew, r.nemesis = crew, newNemesis(r.system, crew, r.log, r.seed, imitations[r.broken].fault)
	found, err := r.harm(ctx)
	if err != nil {
		return nil, err
	}
	took := time.Since(began)
	if found == nil {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if r.standby() && r.length >= 2*time.Minute && r.nemesis.counts[promotion.name] == 0 {
			return nil, errors.New("no standby was promoted")
		}
		crew.calm(2 * calmBound)
		if found, err = r.finish(ctx); err != nil {
			return nil, err
		}
	}
	return newReport(found, r.seed, took, r.nemesis.counts), found.explain(r.out, r.dir)
}

// harm does faults for the length of the run. Of an imitation it checks the
// history all the time, and returns the first one that shows the mistake.
func (r *run) harm(ctx context.Context) (*history, error) {
	ctx, cancel := context.WithTimeout(ctx, r.length)
	defer cancel()
	harmed := make(chan error, 1)
	go func() { harmed <- r.nemesis.run(ctx) }()
	var found *history
	for r.broken != "" && found == nil && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
			h, err := r.history(ctx, false)
			if err == nil && imitations[r.broken].shownBy(h.violations) {
				found = h
			} // an error is that of a fault: the next look will do
		}
	}
	if found != nil {
		cancel()
	}
	return found, <-harmed
}

func (r *run) history(ctx context.Context, complete bool) (h *history, err error) {
	err = r.system.administer(ctx, func(admin *pgx.Conn) error {
		h, err = readHistory(ctx, r.dir, admin, complete)
		return err
	})
	if err != nil {
		return nil, err
	}
	h.check(r.workers)
	return h, nil
}

// finish checks what is left when all workers have ended, and all that has
// happened.
func (r *run) finish(ctx context.Context) (*history, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	r.nemesis.checkHangUps() // those since the last fault
	err := r.system.administer(ctx, func(admin *pgx.Conn) error { return r.checkRemains(ctx, admin) })
	if err != nil {
		return nil, err
	}
	return r.history(ctx, true)
}

// remains are what must not outlive the workers: locks of theirs, and sessions,
// but for those that PgBouncer keeps for its next clients.
var remains = []struct{ what, sql string }{
	{"advisory locks", `select count(*) from pg_locks where locktype = 'advisory'`},
	{"open transactions", `select count(*) from pg_stat_activity where xact_start is not null and pid <> pg_backend_pid() and backend_type = 'client backend'`},
}

func (r *run) checkRemains(ctx context.Context, admin *pgx.Conn) error {
	for _, remain := range remains {
		n := 1
		for end := time.Now().Add(20 * time.Second); n > 0; time.Sleep(20 * time.Millisecond) {
			if err := admin.QueryRow(ctx, remain.sql).Scan(&n); err != nil {
				return err
			}
			if n > 0 && time.Now().After(end) {
				r.log.violation(0, 0, "%d %s are left", n, remain.what)
				break
			}
		}
	}
	return nil
}
