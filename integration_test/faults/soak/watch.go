package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
)

const (
	every      = time.Second     // between two samples
	faultEvery = 3 * time.Second // between two faults
)

// A series is one thing that must not grow.
type series struct {
	name    string
	unit    string
	chance  float64 // what the load and the faults may add
	samples []float64
}

// A watch samples a server and this process.
type watch struct {
	server   *pgtest.Server
	admin    *pgx.Conn // nil or closed: to be made anew
	all      []*series
	logLines int
	failed   int // samples that a fault prevented
}

func newWatch(server *pgtest.Server) *watch {
	return &watch{server: server, all: []*series{
		{name: "goroutines", chance: 20},
		{name: "heap", unit: "MiB", chance: 1},
		{name: "sessions", chance: 3},
		{name: "advisory locks", chance: 5},
		{name: "log lines", unit: "a second", chance: 5},
	}}
}

func (w *watch) close() {
	if w.admin != nil {
		_ = w.admin.Close(context.Background()) // the server ends next
	}
}

func (w *watch) last(name string) float64 {
	for _, s := range w.all {
		if s.name == name {
			return s.samples[len(s.samples)-1]
		}
	}
	panic("no series " + name)
}

// run samples, and does faults, until ctx ends.
func (w *watch) run(ctx context.Context, fault func(context.Context, *pgx.Conn) error) {
	sample, strike := time.NewTicker(every), time.NewTicker(faultEvery)
	defer sample.Stop()
	defer strike.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-sample.C:
			err = w.sample(ctx)
		case <-strike.C:
			if err = w.connect(ctx); err == nil {
				err = fault(ctx, w.admin)
			}
		}
		if err != nil {
			w.failed++ // the server may be away, by a fault
		}
	}
}

func (w *watch) connect(ctx context.Context) (err error) {
	if w.admin == nil || w.admin.IsClosed() {
		w.admin, err = pgx.Connect(ctx, w.server.DSN())
	}
	return err
}

// sample adds one to each series, or none.
func (w *watch) sample(ctx context.Context) error {
	if err := w.connect(ctx); err != nil {
		return err
	}
	var sessions, locks float64
	err := w.admin.QueryRow(ctx, `select (select count(*) from pg_stat_activity where backend_type = 'client backend')::float8,
		(select count(*) from pg_locks where locktype = 'advisory')::float8`).Scan(&sessions, &locks)
	if err != nil {
		return err
	}
	lines, err := w.countLog()
	if err != nil {
		return err
	}
	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	for i, value := range []float64{
		float64(runtime.NumGoroutine()), float64(memory.HeapAlloc) / (1 << 20), sessions, locks,
		float64(lines-w.logLines) / every.Seconds(),
	} {
		w.all[i].samples = append(w.all[i].samples, value)
	}
	w.logLines = lines
	return nil
}

func (w *watch) countLog() (lines int, err error) {
	log, err := w.server.Log()
	return strings.Count(log, "\n"), err
}

// report writes what was sampled, and returns an error for each series that is
// not flat.
func (w *watch) report(out io.Writer) error {
	var errs []error
	if n := len(w.all[0].samples); w.failed > n/2 || n < 10 {
		errs = append(errs, fmt.Errorf("%d samples or faults have failed, and %d samples are there", w.failed, n))
	}
	for _, s := range w.all {
		second, last := s.thirds()
		fmt.Fprintf(out, "%-15s median %8.2f in the second third, %8.2f in the last %s\n", s.name, second, last, s.unit)
		if limit := second*1.1 + s.chance; last > limit {
			errs = append(errs, fmt.Errorf("%s: from %.2f to %.2f, which is more than %.2f", s.name, second, last, limit))
		}
	}
	return errors.Join(errs...)
}

// thirds returns the medians of the second and the last third.
func (s *series) thirds() (second, last float64) {
	n := len(s.samples)
	return median(s.samples[n/3 : 2*n/3]), median(s.samples[2*n/3:])
}

func median(samples []float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[len(sorted)/2]
}

// settle checks that what the load had is gone.
func (w *watch) settle(ctx context.Context, goroutines float64) error {
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = w.sample(ctx); err != nil {
			continue
		}
		// database/sql has one for the library's own database of transactions. The
		// session is the one that asks.
		if w.last("goroutines") <= goroutines+1 && w.last("sessions") == 1 && w.last("advisory locks") == 0 {
			return nil
		}
		err = fmt.Errorf("after all calls %v goroutines are left of %v at the start, %v sessions with this one, and %v advisory locks",
			w.last("goroutines"), goroutines, w.last("sessions"), w.last("advisory locks"))
	}
	return err
}
