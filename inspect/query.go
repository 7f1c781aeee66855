package inspect

import (
	"database/sql"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// selectLocks asks for what [Lock] has, in types that every driver reads:
// pg_locks shows halves of keys as oid, which some drivers make a string of,
// and arrays are read by few. A time is a number of microseconds, as its text depends
// on the role's DateStyle.
//
// Functions, types and operators are written with their schema, so that no
// search_path can put other ones in their place.
//
// The details:
//   - pg_stat_activity hides a session's fields as null, except its query,
//     which it replaces; that the session has no start tells that they are
//     hidden.
//   - A prepared transaction has no pid, so no row there.
//   - waitstart came with PostgreSQL 14. A field of a row made JSON may be
//     missing, a column may not.
//   - pg_blocking_pids locks the server's whole lock manager for a moment,
//     so it is called for waiters only.
const selectLocks = `
select l.classid::bigint, l.objid::bigint, l.objsubid, l.mode operator(pg_catalog.=) 'ShareLock', l.granted,
	coalesce(l.pid, 0), coalesce(a.application_name, ''), coalesce(a.usename::pg_catalog.text, ''),
	coalesce(pg_catalog.host(a.client_addr), ''), coalesce(a.client_port, 0), coalesce(a.state, ''),
	case when a.backend_start is null then '' else coalesce(a.query, '') end,
	(extract(epoch from coalesce(a.xact_start, a.backend_start)) operator(pg_catalog.*) 1000000)::bigint,
	(extract(epoch from (pg_catalog.to_jsonb(l) operator(pg_catalog.->>) 'waitstart')::timestamp with time zone)
		operator(pg_catalog.*) 1000000)::bigint,
	case when l.granted then '' else pg_catalog.array_to_string(pg_catalog.pg_blocking_pids(l.pid), ' ') end
from pg_catalog.pg_locks l
left join pg_catalog.pg_stat_activity a on a.pid operator(pg_catalog.=) l.pid
where l.locktype operator(pg_catalog.=) 'advisory' and l.database operator(pg_catalog.=)
	(select oid from pg_catalog.pg_database where datname operator(pg_catalog.=) pg_catalog.current_database())`

// whereKeyIn takes [addresses]. One parameter for all keys keeps the text the
// same for any number of them: drivers prepare a statement for each text.
const whereKeyIn = `
and pg_catalog.concat_ws('.', l.classid, l.objid, l.objsubid)
	operator(pg_catalog.=) any (pg_catalog.string_to_array($1, ' '))`

// What pg_locks shows as objsubid: the manual's page on pg_locks.
const (
	bigintSpace = 1
	pairSpace   = 2
)

// addresses writes keys as pg_locks shows them: a high half, a low half and the
// key space.
func addresses(keys []hashkey.Key) string {
	var b []byte
	for i, key := range keys {
		if i > 0 {
			b = append(b, ' ')
		}
		b = strconv.AppendUint(b, uint64(key.Int64())>>32, 10)
		b = append(b, '.')
		b = strconv.AppendUint(b, uint64(uint32(key.Int64())), 10)
		b = append(b, '.')
		b = strconv.AppendInt(b, int64(spaceOf(key)), 10)
	}
	return string(b)
}

func spaceOf(key hashkey.Key) int {
	if _, _, ok := key.Pair(); ok {
		return pairSpace
	}
	return bigintSpace
}

// keyAt is the reverse of addresses.
func keyAt(high, low int64, space int) hashkey.Key {
	if space == pairSpace {
		return hashkey.Pair(int32(high), int32(low))
	}
	return hashkey.Int64(high<<32 | low)
}

// scan reads a row of selectLocks.
func scan(rows *sql.Rows) (Lock, error) {
	var (
		lock             Lock
		high, low        int64
		space, port      int
		host, blockedBy  string
		since, waitStart sql.NullInt64
	)
	err := rows.Scan(&high, &low, &space, &lock.Shared, &lock.Granted,
		&lock.PID, &lock.Application, &lock.User, &host, &port, &lock.State,
		&lock.Query, &since, &waitStart, &blockedBy)
	if err != nil {
		return Lock{}, err
	}
	lock.Key = keyAt(high, low, space)
	lock.Client = client(host, port)
	lock.Since, lock.WaitStart = moment(since), moment(waitStart)
	lock.BlockedBy, err = pids(blockedBy)
	return lock, err
}

// moment reads a time, which may be missing.
func moment(microseconds sql.NullInt64) time.Time {
	if !microseconds.Valid {
		return time.Time{}
	}
	return time.UnixMicro(microseconds.Int64)
}

// client writes a session's other end. The server shows a port of -1 for a
// Unix-domain socket.
func client(host string, port int) string {
	switch {
	case port == -1:
		return "[local]"
	case host == "":
		return ""
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// pids reads process numbers, of which there may be several of one process
// that has parallel workers.
func pids(text string) ([]int32, error) {
	var all []int32
	for field := range strings.FieldsSeq(text) {
		pid, err := strconv.ParseInt(field, 10, 32)
		if err != nil {
			return nil, err
		}
		all = append(all, int32(pid))
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}
