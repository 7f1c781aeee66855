// Command peers measures pgadvisory against the bare driver, hand-written code
// and other libraries, in one run on one server that it starts for that.
//
//	go run . [-short] [-docs PATH] [-only PART,…] [-background] [-strict]
//
// What is required of the library's speed comes last, each with what was
// measured and whether it holds.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// options is the command line.
type options struct {
	plan       plan
	docs       string
	only       []string
	background bool
	strict     bool
}

// run is the program; it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	broken, err := o.execute(ctx, stdout, stderr)
	return o.code(broken, err, stderr)
}

// code is the exit code after requirements were broken, or an error.
func (o *options) code(broken int, err error, stderr io.Writer) int {
	switch {
	case err != nil:
		fmt.Fprintln(stderr, "peers:", err)
		return 1
	case broken > 0 && o.strict:
		fmt.Fprintf(stderr, "peers: %d requirements do not hold, or were not measured\n", broken)
		return 1
	}
	return 0
}

func parse(args []string, stderr io.Writer) (options, error) {
	o := options{plan: fullPlan()}
	flags := flag.NewFlagSet("peers", flag.ContinueOnError)
	flags.SetOutput(stderr)
	short := flags.Bool("short", false, "measure less exactly, within two minutes instead of twelve")
	only := flags.String("only", "", "measure these parts only: "+strings.Join(parts, ","))
	flags.StringVar(&o.docs, "docs", "", "write a Markdown file with tables here, and plots into a directory of its name")
	flags.BoolVar(&o.background, "background", false, "take turns that do not compete with a context that cannot be cancelled")
	flags.BoolVar(&o.strict, "strict", false, "exit with 1 if a requirement does not hold or was not measured")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if *short {
		o.plan = shortPlan()
	}
	if *only != "" {
		o.only = strings.Split(*only, ",")
	}
	return o, o.check(flags)
}

func (o *options) check(flags *flag.FlagSet) error {
	err := error(nil)
	for _, part := range o.only {
		if !slices.Contains(parts, part) {
			err = fmt.Errorf("there is no part %q; parts are %s", part, strings.Join(parts, ","))
		}
	}
	if flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if err != nil {
		fmt.Fprintln(flags.Output(), "peers:", err)
	}
	return err
}

func (o *options) wanted(part string) bool {
	return len(o.only) == 0 || slices.Contains(o.only, part)
}

// execute measures and reports, and returns how many requirements were not
// seen to hold.
func (o *options) execute(ctx context.Context, stdout, stderr io.Writer) (broken int, err error) {
	s, err := startServer(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	b := &bench{plan: o.plan, server: s, pauses: &pauses{}, background: o.background, progress: stderr, start: time.Now()}
	r, err := b.measure(ctx, o.wanted)
	if err != nil {
		return 0, err
	}
	r.report(stdout, o.plan)
	if o.docs != "" {
		err = r.writeDocs(o.docs, o.plan)
	}
	return r.broken(o.plan), err
}
