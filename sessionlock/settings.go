package sessionlock

import (
	"strconv"
	"strings"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// setting is a server setting and its value, as SHOW shows it.
type setting struct{ name, value string }

// pinnedSettings returns the settings of a session while it holds a lock. What the
// server does not know is passed over.
//
// An idle client is asked for a sign of life after half of dead, then three
// times more until dead is over; what was sent to it and not acknowledged ends
// the session after dead too. While a statement runs the server does not look
// at the socket, unless client_connection_check_interval says so.
//
// A lease has the server end the session if it is silent for longer. Without
// one, idle_session_timeout must not end a holder for having nothing to say.
func pinnedSettings(dead, lease time.Duration) []setting {
	const probes = 3
	interval := seconds(dead / (2 * probes))
	idle := max(1, seconds(dead)-probes*interval)
	return []setting{
		{"tcp_keepalives_idle", strconv.FormatInt(idle, 10)},
		{"tcp_keepalives_interval", strconv.FormatInt(interval, 10)},
		{"tcp_keepalives_count", strconv.Itoa(probes)},
		{"tcp_user_timeout", milliseconds(dead)},
		{"client_connection_check_interval", milliseconds(time.Duration(interval) * time.Second)},
		{"idle_session_timeout", milliseconds(lease)},
	}
}

// seconds rounds up, because 0 stands for the system's default.
func seconds(d time.Duration) int64 {
	const most = 32767 // what Linux takes
	return min(max(1, int64((d+time.Second-1)/time.Second)), most)
}

func milliseconds(d time.Duration) string {
	return strconv.FormatInt(locksql.Milliseconds(d), 10) + "ms"
}

// known is true for a setting s that the server has and can change. Only on
// Linux has client_connection_check_interval been there from the beginning;
// elsewhere setting it may be an error.
const known = "pg_catalog.current_setting(s.name, true) is not null and " +
	"case when s.name operator(pg_catalog.=) 'client_connection_check_interval' " +
	"then pg_catalog.strpos(pg_catalog.version(), 'linux') operator(pg_catalog.>) 0 else true end"

// set sets s.
const set = "pg_catalog.set_config(s.name, s.value, false)"

// table returns settings as a FROM item s(name, value).
func table(settings []setting) string {
	rows := make([]string, len(settings))
	for i, s := range settings {
		rows[i] = "(" + quote(s.name) + ", " + quote(s.value) + ")"
	}
	return "(values " + strings.Join(rows, ", ") + ") as s(name, value)"
}

// reset returns expressions, each after a comma, that give saved settings their
// defaults back, and are the defaults. A setting that only had its default must not
// look as if the session had set it: it would miss the next change of the default.
func reset(saved []setting) string {
	var all strings.Builder
	for _, s := range saved {
		all.WriteString(", pg_catalog.set_config(" + quote(s.name) + ", null, false)")
	}
	return all.String()
}

// setAgain returns a select that sets settings.
func setAgain(settings []setting) string { return "select " + set + " from " + table(settings) }

// quote writes a string constant.
func quote(value string) string {
	return "'" + strings.ReplaceAll(value, "'", "''") + "'"
}
