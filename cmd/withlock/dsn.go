package main

import (
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

// parseDSN reads a connection string. The error says what is wrong with it, and
// no password that it contains.
func parseDSN(text string, env []string) (*pgx.ConnConfig, error) {
	config, err := readDSN(text, env)
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

func readDSN(text string, env []string) (*pgx.ConnConfig, error) {
	if err := checkScheme(text); err != nil {
		return nil, err
	}
	if isURL(text) && strings.TrimRight(text, "\r\n") != text { // elsewhere it is a space like others
		return nil, errors.New("it ends with a line break")
	}
	config, err := pgx.ParseConfig(text)
	if name := unknownService(text, err); name != "" {
		return nil, fmt.Errorf("there is no service %q in the service file (%w)", name, errors.Unwrap(err))
	}
	if err != nil {
		return nil, errors.New(parseReason(err))
	}
	if config.RuntimeParams["hostaddr"] != "" || getenv(env, "PGHOSTADDR") != "" {
		address := config.RuntimeParams["hostaddr"]
		if address == "" {
			address = getenv(env, "PGHOSTADDR")
		}
		if config, err = atAddress(config, text, address); err != nil {
			return nil, err
		}
	}
	if strings.Contains(config.Host+config.Database, "@") {
		return nil, errors.New("it has an @ too many (in a user name or a password write %40 for @ and %2F for /)")
	}
	if n := config.SSLNegotiation; n != "" && n != "postgres" && n != "direct" { // which pgx takes for postgres
		return nil, errors.New("sslnegotiation is none of postgres and direct" + shown(text, n))
	}
	return config, adoptParams(config, env)
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
	case text != tlsFailed || !errors.As(err, &config) || inner == nil:
	case inner.Error() == "sslmode is invalid":
		text = "sslmode is none of disable, allow, prefer, require, verify-ca and verify-full" +
			shown(config.ConnString, sslmode(config.ConnString))
	default: // it names a parameter, and may go on with what is wrong with a file
		reason, _, _ := strings.Cut(inner.Error(), ": ")
		text += ": " + reason
	}
	return text
}

// tlsFailed is what pgx says of all parameters that are about TLS.
const tlsFailed = "failed to configure TLS"

var (
	sslmodePattern = regexp.MustCompile(`\bsslmode\s*=\s*'?([^\s'&]*)`)
	wordPattern    = regexp.MustCompile(`^[\w-]{1,20}$`)
)

// sslmode returns the sslmode of a connection string, or of the environment, or ""
// where what looks like it could be within the password.
func sslmode(text string) string {
	if isURL(text) {
		_, text, _ = strings.Cut(text, "?")
	}
	at := sslmodePattern.FindStringSubmatchIndex(text)
	switch {
	case at == nil:
		return os.Getenv("PGSSLMODE")
	case strings.ContainsAny(text[:at[0]], `'\`): // it may be quoted
		return ""
	}
	return text[at[2]:at[3]]
}

// shown returns a value of the connection string text for the end of a message. It
// is empty where the value could be a part of the password: one with a ? in it that
// is not written %3F makes parameters of the rest, up to an @.
func shown(text, value string) string {
	question := strings.IndexByte(text, '?')
	if !wordPattern.MatchString(value) || isURL(text) && question >= 0 && strings.Contains(text[question:], "@") {
		return ""
	}
	return fmt.Sprintf(": %q", value)
}

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

// unknownService returns the service that pgx has not found, by the error that
// it has returned for text.
func unknownService(text string, err error) string {
	const unknown = "unable to find service: "
	for range 2 {
		inner := errors.Unwrap(err)
		if inner == nil {
			return ""
		}
		if name, ok := strings.CutPrefix(inner.Error(), unknown); ok {
			return name
		}
		if !strings.HasPrefix(inner.Error(), "failed to read service file") {
			return ""
		}
		_, err = pgx.ParseConfig(with(text, "servicefile", os.DevNull)) // it names the service
	}
	return ""
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
