package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

const equal = " operator(pg_catalog.=) " // whatever the search_path of the role

// named are the settings that something follows from.
const named = "'statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', " +
	"'transaction_timeout', 'idle_session_timeout', 'default_transaction_read_only', " +
	"'log_min_duration_statement', 'log_lock_waits', 'deadlock_timeout', 'default_transaction_isolation', 'default_transaction_deferrable', " +
	"'synchronous_commit', 'tcp_keepalives_idle', 'tcp_keepalives_interval', 'tcp_keepalives_count', " +
	"'client_connection_check_interval', 'max_locks_per_transaction', 'max_connections', 'max_prepared_transactions', " +
	"'superuser_reserved_connections', 'reserved_connections'"

func (d *doctor) readSettings(ctx context.Context) error {
	rows, err := d.one.ask(ctx, "select name, setting from pg_catalog.pg_settings where name"+equal+"any (array["+named+"])")
	words, err := refusal(err)
	if err != nil || words != "" {
		return err
	}
	d.settings = make(map[string]string)
	for _, row := range rows {
		d.settings[row[0]] = row[1]
	}
	return nil
}

// number returns a setting that is a number, or 0.
func (d *doctor) number(name string) int {
	n, _ := strconv.Atoi(d.settings[name]) // what is not there is 0
	return n
}

// duration returns a setting that is a time, or 0.
func (d *doctor) duration(name string, unit time.Duration) time.Duration {
	return time.Duration(d.number(name)) * unit
}

// The versions of PostgreSQL that the tests run on.
const oldest, newest = 14, 18

func (d *doctor) serverIs(ctx context.Context) error {
	version, err := d.one.value(ctx, "select pg_catalog.version()")
	if words, err := refusal(err); words == "" && err != nil {
		return err
	}
	who, err := d.one.ask(ctx, "select pg_catalog.current_database(), current_user")
	if words, err := refusal(err); words == "" && err != nil {
		return err
	}
	name, _, _ := strings.Cut(version, " (")
	name, _, _ = strings.Cut(name, " on ")
	d.print("%s at %s", name, d.one.conn.PgConn().Conn().RemoteAddr())
	if len(who) > 0 {
		d.print(", database %s, role %s", who[0][0], who[0][1])
	}
	d.print("\n\n")
	first, _, _ := strings.Cut(d.one.conn.PgConn().ParameterStatus("server_version"), ".")
	major, _ := strconv.Atoi(first) // not of a beta
	cockroach := d.one.conn.PgConn().ParameterStatus("crdb_version")
	switch {
	case cockroach != "":
		d.line(notable, "server", name, "before 26.3 its lock functions lock nothing; from 26.3 on those of a transaction do")
	case strings.Contains(version, "-YB-"):
		d.line(notable, "server", name, "YugabyteDB has advisory locks from 2025.1 on")
	case major < oldest || major > newest:
		d.line(notable, "server", name, fmt.Sprintf("not among the versions that the tests run on, %d to %d", oldest, newest))
	default:
		d.line(good, "server", name)
	}
	return nil
}

func (d *doctor) standbyIs(ctx context.Context) error {
	var err error
	d.standby, err = d.one.isTrue(ctx, "select pg_catalog.pg_is_in_recovery()")
	words, err := refusal(err)
	switch {
	case err != nil:
		return err
	case words != "":
		d.line(untried, "standby", "the server does not say: "+words)
	case d.standby:
		d.breaks("standby", "yes: its locks exclude no client of the primary",
			"connect to the primary; with several hosts in the URL: target_session_attrs=read-write")
	default:
		d.line(good, "standby", "no")
	}
	return nil
}

// timeoutsAre tells which limits of the role end a lock, and which do not.
func (d *doctor) timeoutsAre(context.Context) error {
	if d.settings == nil {
		d.line(untried, "timeout", "the server does not say what is set for the role")
		return nil
	}
	set := false
	limit := func(name string, follows ...string) {
		if t := d.duration(name, time.Millisecond); t > 0 {
			set = true
			d.line(notable, "timeout", fmt.Sprintf("%s is %v", name, t), follows...)
		}
	}
	limit("statement_timeout", "ends a statement of fn, and with it the transaction; not the wait for the lock")
	limit("lock_timeout", "ends fn's own waits, for rows and tables; not the wait for the lock")
	limit("idle_in_transaction_session_timeout",
		"xactlock: an fn that sends nothing for so long loses the lock, and is told so (ErrLost)",
		"sessionlock and withlock: only where a transaction is open on the lock's own connection")
	limit("transaction_timeout", "xactlock: an fn that takes longer loses the lock, and is told so (ErrLost); the wait does not count")
	limit("idle_session_timeout",
		"ends idle connections of a pool; sessionlock and withlock set it aside while they hold a lock")
	if !set {
		d.line(good, "timeout", "none is set for the role")
	}
	return nil
}

// habitsAre tells what follows from other settings of the role.
func (d *doctor) habitsAre(context.Context) error {
	if d.settings["default_transaction_read_only"] == "on" {
		d.line(notable, "read only", "default_transaction_read_only is on", "the locks work; fn cannot write")
	}
	if d.settings["default_transaction_isolation"] == "serializable" &&
		d.settings["default_transaction_read_only"] == "on" && d.settings["default_transaction_deferrable"] == "on" {
		d.line(notable, "deferrable", "the role's default is SERIALIZABLE READ ONLY DEFERRABLE",
			"sessionlock and withlock: while a SERIALIZABLE transaction that may write is open, a try is late or fails,",
			"and a lock that is held may count as lost; default_transaction_deferrable = off mends that")
	}
	logged := func(found string) {
		d.line(notable, "log", found, "a call that waits writes a line into the server's log each half second; Options.Poll writes none")
	}
	const slice = 500 // milliseconds
	if least, err := strconv.Atoi(d.settings["log_min_duration_statement"]); err == nil && 0 <= least && least <= slice {
		logged(fmt.Sprintf("log_min_duration_statement is %dms", least))
	}
	if d.settings["log_lock_waits"] == "on" && d.number("deadlock_timeout") <= slice {
		logged(fmt.Sprintf("log_lock_waits is on, and deadlock_timeout %dms", d.number("deadlock_timeout")))
	}
	if d.settings["synchronous_commit"] == "off" {
		d.line(notable, "durability", "synchronous_commit is off",
			"after a crash of the server what the last holders wrote may be gone, and tokens may come again")
	}
	return nil
}

// vanishedIs tells how long the server keeps the lock of a client that has
// vanished without a word.
func (d *doctor) vanishedIs(context.Context) error {
	const subject = "vanished client"
	own := "sessionlock and withlock set limits of their own: 30s"
	idle := d.duration("tcp_keepalives_idle", time.Second)
	after := idle + time.Duration(d.number("tcp_keepalives_count"))*d.duration("tcp_keepalives_interval", time.Second)
	switch {
	case d.between != noPooler:
		d.line(notable, subject, "the pooler is the server's client: when it notices, it ends the transaction",
			"xactlock: Options.MaxHold bounds what a client that has vanished holds")
	case idle == 0:
		d.line(untried, subject, "the server does not say how soon it notices")
	default:
		found := fmt.Sprintf("is noticed after %v", after)
		if d.number("client_connection_check_interval") == 0 {
			found += ", and not before its statement has ended"
		}
		d.line(notable, subject, found, "xactlock: Options.MaxHold, or tcp_keepalives_* of the role, make it sooner", own)
	}
	return nil
}

// roomIs tells how many locks the server has room for.
func (d *doctor) roomIs(ctx context.Context) error {
	const subject = "lock table"
	size := d.number("max_locks_per_transaction") * (d.number("max_connections") + d.number("max_prepared_transactions"))
	used, err := d.one.value(ctx, "select pg_catalog.count(*) from pg_catalog.pg_locks where not fastpath")
	words, err := refusal(err)
	switch {
	case err != nil:
		return err
	case words != "" || size == 0:
		d.line(untried, subject, "the server does not say how many locks it has room for")
		return nil
	}
	found := fmt.Sprintf("room for %d locks or more, %s in use", size, used)
	if n, _ := strconv.Atoi(used); n > size*3/4 { // a number, as the server sends it
		d.line(notable, subject, found, "it is nearly full: see max_locks_per_transaction; beyond it is ErrLockTableFull")
		return nil
	}
	d.line(good, subject, found)
	return nil
}

// connectionsAre tells how many connections the role may have.
func (d *doctor) connectionsAre(ctx context.Context) error {
	const subject = "connections"
	rows, err := d.one.ask(ctx, "select pg_catalog.count(*), pg_catalog.count(*) filter (where usename"+equal+"current_user), "+
		"(select rolconnlimit from pg_catalog.pg_roles where rolname"+equal+"current_user) "+
		"from pg_catalog.pg_stat_activity where backend_type"+equal+"'client backend'")
	words, err := refusal(err)
	switch {
	case err != nil:
		return err
	case words != "" || len(rows) == 0 || d.number("max_connections") == 0:
		d.line(untried, subject, "the server does not say how many it takes")
		return nil
	}
	var n [3]int
	for i := range n {
		n[i], _ = strconv.Atoi(rows[0][i]) // numbers, as the server sends them
	}
	all, own, limit := n[0], n[1], n[2]
	room := d.number("max_connections") - d.number("superuser_reserved_connections") - d.number("reserved_connections")
	found := fmt.Sprintf("room for %d, %d in use", room, all)
	left := room - all
	if limit >= 0 {
		found += fmt.Sprintf("; the role may have %d", limit)
		left = min(left, limit-own)
	}
	const few = 10
	if left < few {
		d.line(notable, subject, found, "each withlock has one, also while it waits; waiters of xactlock and sessionlock leave half of their pool")
		return nil
	}
	d.line(good, subject, found)
	return nil
}

func (d *doctor) latencyIs(ctx context.Context) error {
	took, err := d.one.median(ctx)
	if err != nil {
		return err
	}
	trip := func(n time.Duration) time.Duration { return (n * took).Round(10 * time.Microsecond) }
	d.line(good, "latency", fmt.Sprintf("%v a round trip: %v for a section (WithTx), %v for a statement (Exec)", trip(1), trip(2), trip(1)))
	return nil
}
