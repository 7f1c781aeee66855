package main

import (
	"cmp"
	"database/sql"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// answerTimeout is what the server gets to connect and to answer. Of several
// hosts, each gets half of it.
const answerTimeout = 8 * time.Second

// open returns the pool. It does not connect.
func open(o *options, env []string) (*sql.DB, error) {
	text, source := dsn(o, env)
	config, err := parseDSN(text, env)
	if err != nil {
		return nil, noDatabase("the connection string in %s cannot be used: %v", source, err)
	}
	config.RuntimeParams["application_name"] = applicationName(o.name)
	config.ConnectTimeout = min(cmp.Or(config.ConnectTimeout, answerTimeout), answerTimeout/2)
	sessionlock.CancelStatements(config)
	db := stdlib.OpenDB(*config)
	db.SetMaxIdleConns(1)
	return db, nil
}

// unavailable returns the failure of a program that cannot get at its database.
func unavailable(o *options, env []string, err error) *failure {
	text, source := dsn(o, env)
	if name := unknownParam(err); name != "" {
		return noDatabase("the connection string in %s cannot be used: the server does not know the parameter %s,"+
			" and neither does withlock: leave it out", source, name)
	}
	reason := reasonOf(err)
	if text == "" {
		reason += " (neither --db nor PG_CONNECTION_STRING nor DATABASE_URL is set)"
	}
	if gave := (*gaveUp)(nil); errors.As(err, &gave) && gave.after >= time.Second {
		return noDatabase("no database for %v: %s", gave.after.Round(time.Second), reason)
	}
	return noDatabase("no database: %s", reason)
}

// unknownPattern finds the name in the answer of a server, or of a PgBouncer, to
// a parameter that it does not know.
var unknownPattern = regexp.MustCompile(`^(?:unrecognized configuration parameter "|unsupported startup parameter: )([^"\s]+)`)

// unknownParam returns the parameter that the server did not know when the
// session began.
func unknownParam(err error) string {
	var connect *pgconn.ConnectError
	var answer *pgconn.PgError
	if !errors.As(err, &connect) || !errors.As(err, &answer) {
		return ""
	}
	if found := unknownPattern.FindStringSubmatch(answer.Message); found != nil {
		return found[1]
	}
	return ""
}

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
