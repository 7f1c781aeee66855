// Command leader is a clock of which many copies run and one ticks: the leader.
//
//	go run ./examples/leader -db postgres://localhost/clock
//
// Start it three times, in three terminals, and kill the one that ticks, by
// any means. Another one goes on from the next tick.
//
// The code to copy is in clock.go.
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
