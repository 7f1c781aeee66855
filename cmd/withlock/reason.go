package main

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// gaveUp is the error of a program that has waited for its database.
type gaveUp struct {
	error
	after time.Duration
}

func (g *gaveUp) Unwrap() error { return g.error }

// tlsRefused is what pgx says of a server that has no TLS.
const tlsRefused = "server refused TLS connection"

// reasonOf writes in one line why the database is of no use.
func reasonOf(err error) string {
	var connect *pgconn.ConnectError
	if !errors.As(err, &connect) {
		return oneLine(err.Error())
	}
	// There is a line for each attempt. That TLS was refused goes without saying
	// where the next attempt did without.
	head, attempts, several := strings.Cut(connect.Error(), "\n")
	if !several {
		return oneLine(head)
	}
	var said, refused []string
	for line := range strings.Lines(attempts) {
		if line = oneLine(line); strings.HasSuffix(line, tlsRefused) {
			refused = append(refused, line)
		} else {
			said = append(said, line)
		}
	}
	if len(said) == 0 {
		said = refused
	}
	return oneLine(head) + " " + strings.Join(slices.Compact(said), "; ")
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
