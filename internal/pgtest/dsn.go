package pgtest

import (
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// withDatabase returns the DSN of another database of the same server.
func withDatabase(dsn, database string) string {
	u, ok := parseURL(dsn)
	if !ok {
		return dsn + " dbname=" + database // the last one counts
	}
	u.Path = "/" + database
	return editQuery(u, func(q url.Values) { q.Del("dbname"); q.Del("database") })
}

// withAddress returns the DSN with another port of 127.0.0.1, where there is
// no TLS, and the given options added.
func withAddress(dsn string, port int, options map[string]string) string {
	u, ok := parseURL(dsn)
	if !ok {
		dsn += " host=127.0.0.1 port=" + strconv.Itoa(port) + " sslmode=disable"
		for name, value := range options {
			dsn += " " + name + "=" + value
		}
		return dsn
	}
	u.Host = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	return editQuery(u, func(q url.Values) {
		q.Del("host")
		q.Del("port")
		q.Set("sslmode", "disable")
		for name, value := range options {
			q.Set(name, value)
		}
	})
}

// parseURL parses a DSN of the form postgres://…; ok is false for the other
// form, "host=… dbname=…".
func parseURL(dsn string) (u *url.URL, ok bool) {
	if !strings.HasPrefix(dsn, "postgres://") && !strings.HasPrefix(dsn, "postgresql://") {
		return nil, false
	}
	u, err := url.Parse(dsn)
	return u, err == nil
}

func editQuery(u *url.URL, edit func(url.Values)) string {
	q := u.Query()
	edit(q)
	// The drivers take a plus sign for itself, not for a space.
	u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
	return u.String()
}

// Unencrypted has pgx and lib/pq encrypt nothing where neither a URL nor PGSSLMODE
// says how. It is for tests that look at the messages on their way.
func Unencrypted() {
	if os.Getenv("PGSSLMODE") == "" {
		_ = os.Setenv("PGSSLMODE", "disable")
	}
}
