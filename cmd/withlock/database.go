package main

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// answerTimeout is what the server gets to connect and to answer. To connect, each
// host gets its share of it, and one that is alone half of it.
const answerTimeout = 8 * time.Second

var errNoAnswer = fmt.Errorf("no answer within %v", answerTimeout)

// toAnswer returns ctx for one question to the server.
func toAnswer(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, answerTimeout, errNoAnswer)
}

// open returns the pool. It does not connect.
func open(o *options) (*sql.DB, error) {
	text, source := dsn(o)
	config, err := parseDSN(text)
	if err != nil {
		return nil, noDatabase("the connection string in %s cannot be used: %v", source, err)
	}
	config.RuntimeParams["application_name"] = applicationName(o.name)
	share := answerTimeout / time.Duration(max(2, countHosts(config)))
	config.ConnectTimeout = min(cmp.Or(config.ConnectTimeout, share), share)
	sessionlock.CancelStatements(config)
	db := stdlib.OpenDB(*config)
	db.SetMaxIdleConns(1)
	return db, nil
}

// countHosts returns how many hosts the connection string has. Of each there may be
// two in a row, with TLS and without, which share its time.
func countHosts(config *pgx.ConnConfig) int {
	n, host, port := 1, config.Host, config.Port
	for _, other := range config.Fallbacks {
		if other.Host != host || other.Port != port {
			n++
		}
		host, port = other.Host, other.Port
	}
	return n
}

// unavailable returns the failure of a program that cannot get at its database.
func unavailable(o *options, err error) *failure {
	reason := reasonOf(err)
	if text, _ := dsn(o); text == "" {
		reason += " (neither --db nor PG_CONNECTION_STRING nor DATABASE_URL is set)"
	}
	if gave := (*gaveUp)(nil); errors.As(err, &gave) && gave.after >= time.Second {
		return noDatabase("no database for %v: %s", gave.after.Round(time.Second), reason)
	}
	return noDatabase("no database: %s", reason)
}
