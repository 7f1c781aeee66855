package sessionlock

import (
	"strconv"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

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
func pinnedSettings(dead, lease time.Duration) []locksql.Setting {
	const probes = 3
	interval := seconds(dead / (2 * probes))
	idle := max(1, seconds(dead)-probes*interval)
	return []locksql.Setting{
		{Name: "tcp_keepalives_idle", Value: strconv.FormatInt(idle, 10)},
		{Name: "tcp_keepalives_interval", Value: strconv.FormatInt(interval, 10)},
		{Name: "tcp_keepalives_count", Value: strconv.Itoa(probes)},
		{Name: "tcp_user_timeout", Value: milliseconds(dead)},
		{Name: "client_connection_check_interval", Value: milliseconds(time.Duration(interval) * time.Second)},
		{Name: "idle_session_timeout", Value: milliseconds(lease)},
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
