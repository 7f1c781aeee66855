package integration_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/inspect"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
)

var _ = []inspect.Queryer{(*sql.DB)(nil), (*sql.Conn)(nil), (*sql.Tx)(nil)}

// Numbers of which a sign or a half could get lost, in the order of
// hashkey.Compare.
var extremeKeys = []hashkey.Key{
	hashkey.Int64(math.MinInt64),
	hashkey.Int64(math.MinInt32),
	hashkey.Int64(-1),
	hashkey.Int64(0),
	hashkey.Int64(1),
	hashkey.Int64(math.MaxUint32),
	hashkey.Int64(1 << 32),
	hashkey.Int64(math.MaxInt64),
	hashkey.Pair(math.MinInt32, math.MaxInt32),
	hashkey.Pair(math.MinInt32, math.MinInt32),
	hashkey.Pair(-1, 0),
	hashkey.Pair(-1, -1),
	hashkey.Pair(0, 0),
	hashkey.Pair(0, 1),
	hashkey.Pair(0, -1),
	hashkey.Pair(1, 0),
	hashkey.Pair(math.MaxInt32, math.MinInt32),
}

func TestInspectDecodesKeys(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	db := openDB(t, dsn)
	newLockerSession(t, dsn).takes(t, false, extremeKeys...)
	var got []hashkey.Key
	for _, lock := range inspectLocks(t, db) {
		got = append(got, lock.Key)
	}
	if !slices.Equal(got, extremeKeys) {
		t.Errorf("keys are %v, want %v", got, extremeKeys)
	}
	for _, key := range extremeKeys {
		if found := inspectOf(t, db, key); len(found) != 1 || found[0].Key != key {
			t.Errorf("Of(%v) = %+v", key, found)
		}
	}
}

func TestInspectOfKeepsTheCallersNames(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	db := openDB(t, dsn)
	keys := []hashkey.Key{hashkey.Name("a"), hashkey.Namespace("b").ID(1), hashkey.Pair(1, 2).Named("c")}
	newLockerSession(t, dsn).takes(t, false, append(keys, hashkey.Name("another"))...)
	asked := append(keys, keys[0], hashkey.Name("free"))
	found := inspectOf(t, db, asked...)
	if len(found) != len(keys) {
		t.Errorf("%d locks of %d keys: %+v", len(found), len(keys), found)
	}
	for _, lock := range found {
		if !slices.Contains(keys, lock.Key) {
			t.Errorf("%v is none of %v", lock.Key, keys)
		}
	}
}

func TestInspectFindsNothing(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	if found := inspectLocks(t, db); found != nil {
		t.Errorf("Locks = %v, want nil", found)
	}
	if found := inspectOf(t, db, hashkey.Name("free")); found != nil {
		t.Errorf("Of a free key = %v, want nil", found)
	}
	if found := inspectOf(t, db); found != nil {
		t.Errorf("Of no key = %v, want nil", found)
	}
}

func TestInspectShowsHolderAndWaiter(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	db := openDB(t, dsn)
	key := hashkey.Name("nightly-report")
	var began, asked time.Time
	holder := newLockerSession(t, dsn, setting("application_name", "the holder"))
	holder.exec(t, `begin`)
	holder.scan(t, `select now()`, &began)
	holder.takes(t, false, key)
	holder.exec(t, `select 'its last words'`)
	waiter := newLockerSession(t, dsn, setting("application_name", "the waiter"))
	waiter.exec(t, `begin`)
	waiter.scan(t, `select now()`, &asked)
	waiter.waits(t, db, false, key)

	found := inspectOf(t, db, key)
	if len(found) != 2 {
		t.Fatalf("%d locks, want 2: %+v", len(found), found)
	}
	waitStart := found[1].WaitStart
	if waitStart.Before(asked) || time.Since(waitStart) < 0 {
		t.Errorf("WaitStart = %v, want between %v and now", waitStart, asked)
	}
	want := []inspect.Lock{{
		Key: key, Granted: true, PID: holder.pid,
		Application: "the holder", User: holder.user, Client: holder.client,
		State: "idle in transaction", Query: `select 'its last words'`, Since: began,
	}, {
		Key: key, PID: waiter.pid,
		Application: "the waiter", User: waiter.user, Client: waiter.client,
		State: "active", Query: lockQuery(false, key), Since: asked,
		WaitStart: waitStart, BlockedBy: []int32{holder.pid},
	}}
	if diff := diffLocks(want, found); diff != "" {
		t.Errorf("Of (-want +got):\n%s", diff)
	}
	for i := range want {
		want[i].Key = hashkey.Int64(key.Int64())
	}
	if diff := diffLocks(want, inspectLocks(t, db)); diff != "" {
		t.Errorf("Locks (-want +got):\n%s", diff)
	}
}

func TestInspectSinceOfASessionWithoutTransaction(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	var started time.Time
	s := newLockerSession(t, dsn)
	s.scan(t, `select backend_start from pg_stat_activity where pid = pg_backend_pid()`, &started)
	s.takes(t, false, hashkey.Name("a"))
	found := inspectLocks(t, openDB(t, dsn))
	if len(found) != 1 || !found[0].Since.Equal(started) || found[0].State != "idle" {
		t.Errorf("got %+v, want an idle session since %v", found, started)
	}
}

func TestInspectSharedLocks(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	db := openDB(t, dsn)
	key := hashkey.Pair(7, -7).Named("a book")
	readers := []*lockerSession{newLockerSession(t, dsn), newLockerSession(t, dsn)}
	for _, reader := range slices.Backward(readers) { // not in the order of their processes
		reader.takes(t, true, key)
	}
	writer, late := newLockerSession(t, dsn), newLockerSession(t, dsn)
	writer.waits(t, db, false, key)
	late.waits(t, db, true, key)

	blockers := []int32{readers[0].pid, readers[1].pid}
	slices.Sort(blockers)
	type row struct {
		shared, granted bool
		pid             int32
		blockedBy       []int32
	}
	want := []row{
		{true, true, readers[0].pid, nil},
		{true, true, readers[1].pid, nil},
		{false, false, writer.pid, blockers},
		{true, false, late.pid, []int32{writer.pid}},
	}
	var got []row
	for _, lock := range inspectOf(t, db, key) {
		got = append(got, row{lock.Shared, lock.Granted, lock.PID, lock.BlockedBy})
	}
	if !slices.EqualFunc(want, got, func(a, b row) bool {
		return a.shared == b.shared && a.granted == b.granted && a.pid == b.pid && slices.Equal(a.blockedBy, b.blockedBy)
	}) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestInspectBothModesOfOneSession(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	key := hashkey.Name("a")
	s := newLockerSession(t, dsn)
	s.takes(t, true, key)
	s.takes(t, false, key)
	found := inspectOf(t, openDB(t, dsn), key)
	if len(found) != 2 || found[0].Shared == found[1].Shared || !found[0].Granted || !found[1].Granted {
		t.Errorf("got %+v, want a shared and an exclusive lock, both granted", found)
	}
}

// The waiters arrive in an order that is neither that of their processes nor
// that of their transactions.
func TestInspectOrder(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	db := openDB(t, dsn)
	low, high := hashkey.Int64(-1), hashkey.Int64(1)
	holder := newLockerSession(t, dsn)
	holder.takes(t, false, high, low)
	waiters := make([]*lockerSession, 6)
	for i := range waiters {
		waiters[i] = newLockerSession(t, dsn)
		waiters[i].exec(t, `begin`)
	}
	arrival := []int{3, 0, 5, 1, 4, 2}
	ofAll := []int32{holder.pid, holder.pid}
	ofKey := map[hashkey.Key][]int32{low: {holder.pid}, high: {holder.pid}}
	for _, i := range arrival {
		key, pid := []hashkey.Key{low, high}[i%2], waiters[i].pid
		waiters[i].waits(t, db, i%3 == 0, key)
		ofAll, ofKey[key] = append(ofAll, pid), append(ofKey[key], pid)
	}
	if got := pidsOf(inspectOf(t, db, high, low)); !slices.Equal(got, ofAll) {
		t.Errorf("Of both: %v, want %v", got, ofAll)
	}
	for key, want := range ofKey {
		if got := pidsOf(inspectOf(t, db, key)); !slices.Equal(got, want) {
			t.Errorf("Of %v: %v, want %v", key, got, want)
		}
	}
	if got, want := pidsOf(inspectLocks(t, db)), slices.Concat(ofKey[low], ofKey[high]); !slices.Equal(got, want) {
		t.Errorf("Locks: %v, want %v", got, want)
	}
}

func TestInspectLeavesOtherDatabasesOut(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t)
	here, there := server.Database(t), server.Database(t)
	key := hashkey.Name("a")
	own := newLockerSession(t, here)
	own.takes(t, false, key)
	newLockerSession(t, there).takes(t, false, key, hashkey.Name("b"))
	db := openDB(t, here)
	for name, found := range map[string][]inspect.Lock{"Locks": inspectLocks(t, db), "Of": inspectOf(t, db, key)} {
		if got := pidsOf(found); !slices.Equal(got, []int32{own.pid}) {
			t.Errorf("%s: processes %v, want %d alone", name, got, own.pid)
		}
	}
}

// A role without pg_monitor, on sessions of somebody else and on its own.
func TestInspectAsALimitedRole(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	limited := openAsLimitedRole(t, dsn)
	key := hashkey.Int64(1)
	holder := newLockerSession(t, dsn, setting("application_name", "holder"))
	holder.takes(t, false, key)
	waiter := newLockerSession(t, dsn, setting("application_name", "waiter"))
	waiter.waits(t, limited, false, key)

	found := inspectLocks(t, limited)
	if len(found) != 2 || found[1].WaitStart.IsZero() {
		t.Fatalf("got %+v, want two locks, one with WaitStart", found)
	}
	want := []inspect.Lock{
		{Key: key, Granted: true, PID: holder.pid, Application: "holder", User: holder.user},
		{Key: key, PID: waiter.pid, Application: "waiter", User: waiter.user,
			WaitStart: found[1].WaitStart, BlockedBy: []int32{holder.pid}},
	}
	if diff := diffLocks(want, found); diff != "" {
		t.Errorf("others' locks (-want +got):\n%s", diff)
	}

	tx, err := limited.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	own := hashkey.Int64(2)
	if _, err := tx.Exec("select " + locksql.Call(locksql.XactLock, false, own)); err != nil {
		t.Fatal(err)
	}
	found = inspectOf(t, tx, own)
	if len(found) != 1 {
		t.Fatalf("%d locks, want 1: %+v", len(found), found)
	}
	if l := found[0]; l.State != "active" || l.Query == "" || l.Client == "" || l.Since.IsZero() {
		t.Errorf("its own lock is %+v", l)
	}
}

// openAsLimitedRole returns a pool whose role may do what any role may.
func openAsLimitedRole(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db := openDB(t, dsn)
	role, password := "limited_"+strings.ToLower(rand.Text()), rand.Text()
	exec(t, db, `create role `+role+` login password '`+password+`'`)
	t.Cleanup(func() { exec(t, db, `drop role `+role) })
	return openDB(t, dsn, func(config *pgx.ConnConfig) { config.User, config.Password = role, password })
}

func TestInspectPreparedTransaction(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Dedicated(t, "max_prepared_transactions = 5").DSN()
	db := openDB(t, dsn)
	key := hashkey.Name("a")
	s := newLockerSession(t, dsn)
	s.exec(t, `begin`)
	s.exec(t, "select "+locksql.Call(locksql.XactLock, false, key))
	s.exec(t, `prepare transaction 'orphan'`)
	waiter := newLockerSession(t, dsn)
	waiter.waits(t, db, true, key)
	found := inspectOf(t, db, key)
	if len(found) != 2 {
		t.Fatalf("%d locks, want 2: %+v", len(found), found)
	}
	want := inspect.Lock{Key: key, Granted: true}
	if diff := diffLocks([]inspect.Lock{want}, found[:1]); diff != "" {
		t.Errorf("prepared transaction (-want +got):\n%s", diff)
	}
	if l := found[1]; l.PID != waiter.pid || !slices.Equal(l.BlockedBy, []int32{0}) {
		t.Errorf("waiter %d is %+v, want it blocked by 0", waiter.pid, l)
	}
}

// Drivers read the columns in whatever way they are told to talk to the server, which
// writes text as the role wants it.
func TestInspectInEveryQueryMode(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	key := hashkey.Name("a")
	holder := newLockerSession(t, dsn)
	holder.takes(t, false, key)
	var want []inspect.Lock
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		db := openDB(t, dsn, func(config *pgx.ConnConfig) {
			config.DefaultQueryExecMode = mode
			config.RuntimeParams["datestyle"] = "German"
			config.RuntimeParams["extra_float_digits"] = "-15"
		})
		found := inspectOf(t, db, key)
		if want == nil {
			want = found
		}
		if diff := diffLocks(want, found); diff != "" || len(found) != 1 || found[0].PID != holder.pid {
			t.Errorf("%v: %+v (-want +got):\n%s", mode, found, diff)
		}
	}
}

// A search_path can put a user's functions, operators and tables before the
// server's own.
func TestInspectIgnoresTheSearchPath(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	db := openDB(t, dsn)
	key := hashkey.Name("a")
	newLockerSession(t, dsn).takes(t, true, key)
	newLockerSession(t, dsn).waits(t, db, false, key)
	exec(t, db, hostileSchema)
	hostile := openDB(t, dsn, setting("search_path", "hostile, pg_catalog"))
	want, got := inspectOf(t, db, key), inspectOf(t, hostile, key)
	if diff := diffLocks(want, got); diff != "" || len(want) != 2 {
		t.Errorf("%d locks (-want +got):\n%s", len(want), diff)
	}
}

const hostileSchema = `
create schema hostile;
create view hostile.pg_locks as select * from pg_catalog.pg_locks where false;
create view hostile.pg_stat_activity as select * from pg_catalog.pg_stat_activity where false;
create view hostile.pg_database as select * from pg_catalog.pg_database where false;
create domain hostile.text as pg_catalog.text check (value is null);
create domain hostile.int8 as pg_catalog.int8 check (value is null);
create domain hostile.timestamptz as pg_catalog.timestamptz check (value is null);
create function hostile.concat_ws(text, variadic "any") returns text language internal as 'text_concat';
create function hostile.never(text, text) returns bool language sql as 'select false';
create function hostile.never(oid, oid) returns bool language sql as 'select false';
create function hostile.never(name, name) returns bool language sql as 'select false';
create function hostile.never(int4, int4) returns bool language sql as 'select false';
create operator hostile.= (leftarg = text, rightarg = text, function = hostile.never);
create operator hostile.= (leftarg = oid, rightarg = oid, function = hostile.never);
create operator hostile.= (leftarg = name, rightarg = name, function = hostile.never);
create operator hostile.= (leftarg = int4, rightarg = int4, function = hostile.never);
create function hostile.current_database() returns name language sql as 'select ''another''::name';
create function hostile.array_to_string(anyarray, text) returns text language sql as 'select ''7''::text';
create function hostile.pg_blocking_pids(int4) returns int4[] language sql as 'select ''{7}''::int4[]';
create function hostile.host(inet) returns text language sql as 'select ''nowhere''::text';
create function hostile.string_to_array(text, text) returns text[] language sql as 'select null::text[]';
create function hostile.to_jsonb(anyelement) returns jsonb language sql as 'select ''{"waitstart": "2000-01-01"}''::jsonb'`

func TestInspectErrors(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range map[string]func() ([]inspect.Lock, error){
		"Locks": func() ([]inspect.Lock, error) { return inspect.Locks(ctx, db) },
		"Of":    func() ([]inspect.Lock, error) { return inspect.Of(ctx, db, hashkey.Name("a")) },
	} {
		found, err := call()
		if found != nil || !errors.Is(err, context.Canceled) || !strings.HasPrefix(err.Error(), "inspect: ") {
			t.Errorf("%s = %v, %v, want context.Canceled", name, found, err)
		}
	}
}
