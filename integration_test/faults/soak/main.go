// Command soak uses the library for a long time, steadily and with faults, and
// fails if anything grows: goroutines, the heap, sessions, advisory locks, or
// what the server logs.
//
//	go run ./soak [-for 30m] [-svg FILE]
//
// It samples each of these once a second. A series is flat if the median of the
// last third of the run is at most a tenth, and what chance may add, above that
// of the second third; the first third is for pools and caches to fill. At the
// end, when all calls have returned, the goroutines of the beginning are left,
// and no session and no lock.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
)

func main() {
	length := flag.Duration("for", 30*time.Minute, "how long")
	svg := flag.String("svg", "", "where to draw what was sampled")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *length, *svg); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, length time.Duration, svg string) (err error) {
	if least := 30 * time.Second; length < least {
		return fmt.Errorf("-for is %v, and shows nothing under %v", length, least)
	}
	server, err := pgtest.Start(ctx, "max_connections = 60")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	w := newWatch(server)
	defer w.close()
	if err := w.sample(ctx); err != nil {
		return err
	}
	idle := w.last("goroutines")
	loaded, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	load, err := startLoad(loaded, server.DSN())
	if err != nil {
		return err
	}
	w.run(loaded, harm(server))
	calls := load.end()
	if err := ctx.Err(); err != nil {
		return err
	}
	fmt.Printf("%d calls returned nil, %d an error\n", calls.succeeded, calls.failed)
	err = errors.Join(w.report(os.Stdout), w.settle(ctx, idle))
	if calls.succeeded == 0 {
		err = errors.Join(err, errors.New("no call has succeeded"))
	}
	if svg != "" {
		err = errors.Join(err, os.WriteFile(svg, w.draw(), 0o644))
	}
	return err
}
