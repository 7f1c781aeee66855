// Command webapp is a small HTTP service that guards its writes with
// transaction-level advisory locks, and the demonstration of why it does so in
// that way.
//
//	go run -C examples/webapp .
//
// starts a PostgreSQL of its own, loads the service three times, with no lock,
// with the usual mistake and with xactlock, and prints what became of the
// withdrawals. It exits with 1 if that is not what it should be.
//
//	go run -C examples/webapp . -db postgres://localhost/bank -listen 127.0.0.1:8080
//
// serves until SIGINT or SIGTERM, and finishes the requests in flight:
//
//	curl -X PUT -d balance=1000 http://127.0.0.1:8080/accounts/1
//	curl -d amount=5 http://127.0.0.1:8080/accounts/1/withdraw
//	curl http://127.0.0.1:8080/accounts/1
//	curl -X POST http://127.0.0.1:8080/reports/1
//
// With -style=pgx the accounts are written with pgx's own pool, pgxlock and
// queries like sqlc's, and with -style=bun with bun; without, with database/sql.
//
// The code to copy is in accounts_sql.go, accounts_pgx.go or accounts_bun.go (wait
// your turn), reports.go (or leave it
// to whoever is at it), schema.go (or do it once) and answer.go (what to tell
// the client). The code not to copy is in wrong.go.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the first signal asks to finish, the second one kills
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
