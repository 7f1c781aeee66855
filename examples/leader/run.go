package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// run is the program, and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("leader", flag.ContinueOnError)
	flags.SetOutput(stderr)
	dsn := flags.String("db", os.Getenv("DATABASE_URL"), "the `URL` of the database; a connection pooler will not do")
	every := flags.Duration("every", time.Second, "the time between two ticks")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if *every <= 0 {
		fmt.Fprintf(stderr, "leader: -every is %v, and must be more than 0\n", *every)
		return 2
	}
	if err := lead(ctx, *dsn, *every, stdout); err != nil && ctx.Err() == nil {
		fmt.Fprintln(stderr, "leader:", err)
		return 1
	}
	return 0
}

// lead waits to be the leader, and ticks when it is, until ctx ends.
func lead(ctx context.Context, dsn string, every time.Duration, stdout io.Writer) error {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return err
	}
	sessionlock.CancelStatements(config)
	db := stdlib.OpenDB(*config)
	defer db.Close()
	c := clock{db: db, every: every, out: stdout}
	return sessionlock.New(db).Lead(ctx, hashkey.Name("examples/leader"), c.run)
}
