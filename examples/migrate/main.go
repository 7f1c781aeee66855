// Command migrate is a service that migrates its database when it starts, of
// which many instances start at once.
//
//	go run -C examples/migrate . -db postgres://localhost/shop
//
// The code to copy is in migrate.go.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the first signal asks to finish, the second one kills
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program, and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("migrate", flag.ContinueOnError)
	flags.SetOutput(stderr)
	dsn := flags.String("db", os.Getenv("DATABASE_URL"), "the `URL` of the database; a connection pooler will not do")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if err := serve(ctx, *dsn, stdout); err != nil {
		fmt.Fprintln(stderr, "migrate:", err)
		return 1
	}
	return 0
}

// serve migrates the database, and then does what the service is for.
func serve(ctx context.Context, dsn string, stdout io.Writer) error {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return err
	}
	sessionlock.CancelStatements(config)
	db := stdlib.OpenDB(*config)
	defer db.Close()
	from, to, err := migrateUp(ctx, db)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%d: schema %d, was %d\n", os.Getpid(), to, from)
	_, err = db.ExecContext(ctx, `insert into instances (pid) values ($1)`, os.Getpid())
	return err
}
