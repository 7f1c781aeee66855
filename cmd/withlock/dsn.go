package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// dsn returns the connection string and where it is from, for messages. An
// empty one makes pgx look at the PG* variables of this process, as libpq does.
func dsn(o *options) (dsn, source string) {
	switch {
	case o.db != "":
		return o.db, "--db"
	case os.Getenv("PG_CONNECTION_STRING") != "":
		return os.Getenv("PG_CONNECTION_STRING"), "PG_CONNECTION_STRING"
	case os.Getenv("DATABASE_URL") != "":
		return os.Getenv("DATABASE_URL"), "DATABASE_URL"
	}
	return "", "the PG* variables"
}

// parseDSN reads a connection string. The error says what is wrong with it, and
// no password that it contains.
func parseDSN(text string) (*pgx.ConnConfig, error) {
	config, err := readDSN(text)
	if err != nil && swallowsPassword(err.Error()) ||
		err == nil && slices.ContainsFunc(shownParts(config), swallowsPassword) {
		return nil, errors.New("a parameter has the password for its value (an empty value is written '')")
	}
	return config, err
}

// shownParts returns what an error of connecting shows.
func shownParts(config *pgx.ConnConfig) []string {
	parts := append(slices.Collect(maps.Keys(config.RuntimeParams)), config.User, config.Database, config.Host)
	for _, other := range config.Fallbacks {
		parts = append(parts, other.Host)
	}
	return parts
}

// swallowsPassword reports whether the text has a password in it, as the value
// of host has in "host= password=secret": after the = there may be spaces.
func swallowsPassword(text string) bool { return strings.Contains(text, "password=") }

func readDSN(text string) (*pgx.ConnConfig, error) {
	if err := checkScheme(text); err != nil {
		return nil, err
	}
	if isURL(text) && strings.TrimRight(text, "\r\n") != text { // elsewhere it is a space like others
		return nil, errors.New("it ends with a line break")
	}
	config, err := pgx.ParseConfig(text)
	if err != nil {
		return nil, errors.New(parseReason(err))
	}
	if address := cmp.Or(config.RuntimeParams["hostaddr"], os.Getenv("PGHOSTADDR")); address != "" {
		if config, err = atAddress(config, text, address); err != nil {
			return nil, err
		}
	}
	if strings.Contains(config.Host+config.Database, "@") {
		return nil, errors.New("it has an @ too many (in a user name or a password write %40 for @ and %2F for /)")
	}
	if n := config.SSLNegotiation; n != "" && n != "postgres" && n != "direct" { // which pgx takes for postgres
		return nil, errors.New("sslnegotiation is none of postgres and direct")
	}
	return config, adoptParams(config)
}

// schemePattern finds what a URL begins with. What else may stand there, such as
// a password, does not match.
var schemePattern = regexp.MustCompile(`^((?:jdbc:)?[A-Za-z][A-Za-z0-9+.-]*)://`)

// checkScheme returns what is wrong with a URL that is not PostgreSQL's.
func checkScheme(text string) error {
	found := schemePattern.FindStringSubmatch(text)
	if found == nil || found[1] == "postgres" || found[1] == "postgresql" {
		return nil
	}
	if strings.Contains(strings.ToLower(found[1]), "postgres") {
		return fmt.Errorf("it begins with %s://, which is another tool's: write postgresql://", found[1])
	}
	return fmt.Errorf("it begins with %s://, and a URL of PostgreSQL's with postgresql://", found[1])
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
	var config *pgconn.ParseConfigError
	switch inner := errors.Unwrap(err); {
	case errors.As(err, &file):
		text += ": " + file.Error()
	case text == "failed to read service" && inner != nil: // it names the file or the service
		text = printable(inner.Error())
	case text != tlsFailed || !errors.As(err, &config) || inner == nil:
	case inner.Error() == "sslmode is invalid":
		text = "sslmode is none of disable, allow, prefer, require, verify-ca and verify-full"
	default: // it names a parameter, and may go on with what is wrong with a file
		reason, _, _ := strings.Cut(inner.Error(), ": ")
		text += ": " + reason
	}
	return text
}

// tlsFailed is what pgx says of all parameters that are about TLS.
const tlsFailed = "failed to configure TLS"

// atAddress returns config with libpq's hostaddr: the address to connect to,
// where host is the name that a certificate must have. Either may be a list.
func atAddress(config *pgx.ConnConfig, text, address string) (*pgx.ConnConfig, error) {
	if strings.HasPrefix(config.Host, "/") { // the default, or of no account
		var err error
		if config, err = pgx.ParseConfig(with(text, "host", address)); err != nil {
			return nil, errors.New(parseReason(err))
		}
	}
	hosts := []string{config.Host}
	for _, other := range config.Fallbacks { // there may be two for a host, with TLS and without
		if other.Host != hosts[len(hosts)-1] {
			hosts = append(hosts, other.Host)
		}
	}
	addresses := strings.Split(address, ",")
	if len(addresses) != len(hosts) {
		return nil, fmt.Errorf("it has %d addresses in hostaddr for %d hosts", len(addresses), len(hosts))
	}
	config.LookupFunc = lookupIn(hosts, addresses)
	return config, nil
}

// isURL reports whether a connection string is a URL, and not keywords and values.
func isURL(text string) bool {
	return strings.HasPrefix(text, "postgres://") || strings.HasPrefix(text, "postgresql://")
}

// with returns a connection string with one more parameter.
func with(text, name, value string) string {
	if !isURL(text) {
		return text + " " + name + "='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
	}
	separator := "?"
	if strings.Contains(text, "?") {
		separator = "&"
	}
	return text + separator + name + "=" + url.QueryEscape(value)
}
