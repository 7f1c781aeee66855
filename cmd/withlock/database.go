package main

import (
	"cmp"
	"database/sql"
	"errors"
	"io/fs"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// answerTimeout is what the server gets to connect and to answer. Of several
// hosts, each gets half of it.
const answerTimeout = 8 * time.Second

// dsn returns the connection string and where it is from, for messages. An
// empty one makes pgx look at the PG* variables of this process, as libpq does.
func dsn(o *options, env []string) (dsn, source string) {
	switch {
	case o.db != "":
		return o.db, "--db"
	case getenv(env, "PG_CONNECTION_STRING") != "":
		return getenv(env, "PG_CONNECTION_STRING"), "PG_CONNECTION_STRING"
	case getenv(env, "DATABASE_URL") != "":
		return getenv(env, "DATABASE_URL"), "DATABASE_URL"
	}
	return "", "the PG* variables"
}

// open returns the pool. It does not connect.
func open(o *options, env []string) (*sql.DB, error) {
	text, source := dsn(o, env)
	config, err := pgx.ParseConfig(text)
	if err != nil {
		return nil, noDatabase("the connection string in %s cannot be used: %s", source, parseReason(err))
	}
	if strings.Contains(config.Host+config.Database, "@") {
		return nil, noDatabase("the connection string in %s cannot be used: it has an @ too many"+
			" (in a user name or a password write %%40 for @ and %%2F for /)", source)
	}
	config.RuntimeParams["application_name"] = applicationName(o.name)
	config.ConnectTimeout = min(cmp.Or(config.ConnectTimeout, answerTimeout), answerTimeout/2)
	sessionlock.CancelStatements(config)
	db := stdlib.OpenDB(*config)
	db.SetMaxIdleConns(1)
	return db, nil
}

// parseReason returns why pgx does not take a connection string, without any
// part of it. pgx's own message shows it with the password masked, if it finds
// it, which in a string that makes no sense is not certain.
func parseReason(err error) string {
	text := err.Error()
	if i := strings.LastIndex(text, "`: "); i >= 0 {
		text = text[i+len("`: "):]
	}
	for _, end := range []string{" (", ": ", ` "`} { // what comes after may quote it
		text, _, _ = strings.Cut(text, end)
	}
	var file *fs.PathError
	if errors.As(err, &file) {
		text += ": " + file.Error()
	}
	return text
}

// unavailable returns the failure of a program that cannot get at its database.
func unavailable(o *options, env []string, err error) *failure {
	reason := err.Error()
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		reason = connect.Error()
	}
	reason = strings.Join(strings.Fields(reason), " ") // there is a line for each host
	if text, _ := dsn(o, env); text == "" {
		reason += " (neither --db nor PG_CONNECTION_STRING nor DATABASE_URL is set)"
	}
	return noDatabase("no database: %s", reason)
}
