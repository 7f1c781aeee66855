package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// pgx takes a parameter that it does not know for a setting of the server's,
// which the server refuses. Of libpq's parameters, meaningless are the ones that
// say nothing to a program which has one connection and looks after it.
var meaningless = []string{
	"client_encoding", "fallback_application_name", "gssdelegation", "gsslib", "hostaddr", // see atAddress
	"keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "tcp_user_timeout",
	"load_balance_hosts", "sslcompression", "sslkeylogfile",
}

// unable are libpq's parameters that promise what this program cannot keep, with
// the values that promise nothing.
var unable = map[string][]string{
	"gssencmode":       {"disable", "prefer"},
	"replication":      {"false", "off", "no", "0"},
	"requirepeer":      nil,
	"scram_client_key": nil,
	"scram_server_key": nil,
	"sslcrl":           nil,
	"sslcrldir":        nil,
}

// foreign are the parameters that other tools have added to PostgreSQL's URLs,
// each with the name of its tool.
var foreign = map[string]string{
	"connection_limit": "Prisma", "pgbouncer": "Prisma", "pool_timeout": "Prisma", "schema": "Prisma",
	"socket_timeout": "Prisma", "sslaccept": "Prisma", "sslidentity": "Prisma", "statement_cache_size": "Prisma and asyncpg",
	"ApplicationName": "JDBC", "connectTimeout": "JDBC", "currentSchema": "JDBC", "loginTimeout": "JDBC",
	"prepareThreshold": "JDBC", "reWriteBatchedInserts": "JDBC", "socketTimeout": "JDBC", "sslfactory": "JDBC",
	"stringtype": "JDBC", "targetServerType": "JDBC", "tcpKeepAlive": "JDBC",
	"async_fallback": "SQLAlchemy", "prepared_statement_cache_size": "SQLAlchemy", "prepared_statement_name_func": "SQLAlchemy",
	"ssl": "asyncpg and JDBC", "command_timeout": "asyncpg",
	"checkout_timeout": "Rails", "encoding": "Rails", "pool": "Rails", "prepared_statements": "Rails", "reaping_frequency": "Rails",
	"binary_parameters": "lib/pq", "uselibpqcompat": "node-postgres",
}

// variables are libpq's environment variables that pgx does not read.
var variables = map[string]string{
	"gssencmode": "PGGSSENCMODE", "requirepeer": "PGREQUIREPEER", "sslcrl": "PGSSLCRL", "sslcrldir": "PGSSLCRLDIR",
	"ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION", "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
}

// settingName matches the name of a setting of the server's, or of an
// extension's.
var settingName = regexp.MustCompile(`^\w+(\.\w+)*$`)

// adoptParams makes of the parameters that pgx does not know what libpq would,
// and leaves the settings of the server's.
func adoptParams(config *pgx.ConnConfig) error {
	params := config.RuntimeParams
	for name, variable := range variables {
		if _, given := params[name]; !given && os.Getenv(variable) != "" {
			params[name] = os.Getenv(variable)
		}
	}
	if err := limitTLS(config); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(params)) {
		harmless, known := unable[name]
		switch value := params[name]; {
		case known && value != "" && !slices.Contains(harmless, value), strings.HasPrefix(name, "oauth_"):
			return fmt.Errorf("%s is a parameter that withlock does not know how to obey", name)
		case known, slices.Contains(meaningless, name), strings.HasPrefix(name, "pool_"): // pgxpool's
			delete(params, name)
		case foreign[name] != "":
			return fmt.Errorf("%s is a parameter of %s, not of PostgreSQL: leave it out", name, foreign[name])
		case !settingName.MatchString(name): // it may be half a password
			return errors.New("it has a parameter whose name is none (a value with a space needs '…' around it)")
		}
	}
	params["client_encoding"] = "UTF8" // what all text here is
	return nil
}

// tlsVersions are libpq's names.
var tlsVersions = map[string]uint16{
	"": 0, "tlsv1": tls.VersionTLS10, "tlsv1.1": tls.VersionTLS11, "tlsv1.2": tls.VersionTLS12, "tlsv1.3": tls.VersionTLS13,
}

// limitTLS obeys the parameters that say which versions of TLS may be used. Like
// libpq it takes none before 1.2, unless one is asked for.
func limitTLS(config *pgx.ConnConfig) error {
	const lowest, highest = "ssl_min_protocol_version", "ssl_max_protocol_version"
	least, leastKnown := tlsVersions[strings.ToLower(config.RuntimeParams[lowest])]
	most, mostKnown := tlsVersions[strings.ToLower(config.RuntimeParams[highest])]
	switch {
	case !leastKnown:
		return fmt.Errorf("%s is none of TLSv1, TLSv1.1, TLSv1.2 and TLSv1.3", lowest)
	case !mostKnown:
		return fmt.Errorf("%s is none of TLSv1, TLSv1.1, TLSv1.2 and TLSv1.3", highest)
	}
	delete(config.RuntimeParams, lowest)
	delete(config.RuntimeParams, highest)
	limit := func(c *tls.Config) {
		if c != nil {
			c.MinVersion, c.MaxVersion = cmp.Or(least, c.MinVersion), cmp.Or(most, c.MaxVersion)
		}
	}
	limit(config.TLSConfig)
	for _, other := range config.Fallbacks {
		limit(other.TLSConfig)
	}
	return nil
}

// lookupIn returns a lookup of hosts that have these addresses.
func lookupIn(hosts, addresses []string) func(context.Context, string) ([]string, error) {
	return func(_ context.Context, host string) (found []string, err error) {
		for i, h := range hosts {
			if h == host && !slices.Contains(found, addresses[i]) {
				found = append(found, addresses[i])
			}
		}
		return found, nil
	}
}
