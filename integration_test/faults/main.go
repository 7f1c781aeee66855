// Command faults checks the library's promises while it does harm to all that
// the library depends on. Worker processes make random calls on a few keys,
// through PostgreSQL and PgBouncer, and write down what they were told. A
// nemesis kills, stops, cuts, delays and restarts meanwhile. At the end, a
// checker compares what the workers were told with what the database says.
//
//	go run . [-for 5m] [-seed N] [-workers N] [-markdown] [-broken NAME] [-keep]
//
// It exits with 1 after a violation, with 2 after a failure of its own. A seed
// repeats what the workers and the nemesis choose, though not when each gets to
// it. docs/reliability.md says what is checked.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if code, ok := asWorker(); ok {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := program(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// program is the command; it returns the exit code.
func program(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("faults", flag.ContinueOnError)
	flags.SetOutput(stderr)
	o := options{out: stderr}
	flags.DurationVar(&o.length, "for", 5*time.Minute, "how long to do harm")
	flags.Uint64Var(&o.seed, "seed", 0, "what to repeat; 0 chooses one")
	flags.IntVar(&o.workers, "workers", 3, "how many worker processes")
	flags.StringVar(&o.broken, "broken", "", "check an imitation of the library, until its mistake is found: "+brokenNames())
	flags.BoolVar(&o.keep, "keep", false, "keep the logs")
	markdown := flags.Bool("markdown", false, "print the report as Markdown")
	err := flags.Parse(args)
	if err == nil {
		err = o.validate()
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "faults:", err)
		return 2
	}
	if o.seed == 0 {
		o.seed = uint64(rand.Uint32()) | 1
	}
	fmt.Fprintln(stderr, "seed", o.seed)
	r, err := execute(ctx, o)
	if err != nil {
		fmt.Fprintln(stderr, "faults:", err)
		return 2
	}
	if *markdown {
		r.markdown(stdout)
	} else {
		r.write(stdout)
	}
	if len(r.violations) > 0 {
		return 1
	}
	return 0
}

func (o *options) validate() error {
	if o.length <= 0 {
		return fmt.Errorf("-for is %v, and must be more than 0", o.length)
	}
	if o.workers < 1 {
		return fmt.Errorf("-workers is %d, and must be 1 at least", o.workers)
	}
	_, err := locksFor(o.broken)
	return err
}
