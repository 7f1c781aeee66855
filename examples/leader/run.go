package main

import (
	"cmp"
	"context"
	"database/sql"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

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
	if err := lead(ctx, *dsn, *every, stdout); err != nil && ctx.Err() == nil {
		fmt.Fprintln(stderr, "leader:", err)
		return 1
	}
	return 0
}

// lead waits to be the leader, and ticks when it is, until ctx ends.
func lead(ctx context.Context, dsn string, every time.Duration, stdout io.Writer) error {
	db, err := sql.Open("pgx", cmp.Or(dsn, "postgres://"))
	if err != nil {
		return err
	}
	defer db.Close()
	c := clock{db: db, every: every, out: stdout}
	return sessionlock.New(db).Lead(ctx, hashkey.Name("examples/leader"), c.run)
}
