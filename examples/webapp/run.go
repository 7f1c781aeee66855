package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
)

const usage = `usage:
  webapp [-style STYLE]                         run the demonstration, on a PostgreSQL of its own
  webapp [-style STYLE] -db URL [-listen ADDR]  serve until SIGINT or SIGTERM
`

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// run is the program: main with everything it depends on as a parameter.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	f, err := parseFlags(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		return exitUsage // parseFlags has said why
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	if f.db != "" {
		err = serveDatabase(ctx, f, stdout, log)
	} else {
		err = runDemo(ctx, f.style, stdout, log)
	}
	if err != nil {
		fmt.Fprintf(stderr, "webapp: %v\n", err)
		return exitFailed
	}
	return exitOK
}

type flags struct {
	db     string // empty: run the demonstration
	listen string
	style  style
}

// parseFlags tells whoever reads stderr what is wrong with args, if anything
// is, and how they should have been.
func parseFlags(args []string, stderr io.Writer) (flags, error) {
	var f flags
	set := flag.NewFlagSet("webapp", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.Usage = func() {
		fmt.Fprint(stderr, usage)
		set.PrintDefaults()
	}
	set.StringVar(&f.db, "db", "", "serve on the PostgreSQL database at `URL`")
	set.StringVar(&f.listen, "listen", "127.0.0.1:8080", "with -db, listen on `ADDR`; port 0 is any free one")
	name := set.String("style", styles[0].name, "write the accounts with database/sql (sql), pgx and sqlc (pgx) or bun (bun)")
	if err := set.Parse(args); err != nil {
		return flags{}, err
	}
	err := checkFlags(set)
	var ok bool
	if f.style, ok = styleOf(*name); err == nil && !ok {
		err = fmt.Errorf("-style is %q, want sql, pgx or bun", *name)
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		set.Usage()
		return flags{}, err
	}
	return f, nil
}

// checkFlags refuses what the flag package lets pass.
func checkFlags(set *flag.FlagSet) error {
	if set.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", set.Arg(0))
	}
	given := make(map[string]bool)
	set.Visit(func(f *flag.Flag) { given[f.Name] = true })
	switch {
	case given["db"] && set.Lookup("db").Value.String() == "":
		// Most likely a variable that is not set, and no wish to see a demonstration.
		return errors.New("-db is empty")
	case given["listen"] && !given["db"]:
		return errors.New("-listen is of no use without -db")
	}
	return nil
}

func runDemo(ctx context.Context, s style, stdout io.Writer, log *slog.Logger) (err error) {
	server, err := pgtest.Open(ctx)
	if err != nil {
		return fmt.Errorf("the demonstration needs a PostgreSQL: %w", err)
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	d := demo{dsn: server.DSN(), style: s, load: fullLoad, out: stdout, log: log}
	return d.run(ctx)
}
