package integration_test

import (
	"context"
	"database/sql"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// rules are the tests of the contract that xactlock and pgxlock share. Each takes
// locks of key, and finds table t empty.
var rules = map[string]func(t *testing.T, s *stage){
	"returns":               ruleReturns,
	"panics":                rulePanics,
	"exits":                 ruleExits,
	"value":                 ruleValue,
	"failed statement":      ruleFailedStatement,
	"savepoint":             ruleSavepoint,
	"ends its transaction":  ruleEndsItsTransaction,
	"ends and fails":        ruleEndsAndFails,
	"leaves rows":           ruleLeavesRows,
	"rows end last":         ruleRowsEndLast,
	"ctx ends with it":      ruleContextEndsWithTheCall,
	"ctx ends":              ruleContextEnds,
	"under a statement":     ruleContextEndsUnderAStatement,
	"session is gone":       ruleSessionGone,
	"fresh reads":           ruleFreshReads,
	"waits that end":        ruleWaitsEnd,
	"tries":                 ruleTries,
	"shared":                ruleShared,
	"read only":             ruleReadOnly,
	"level":                 ruleLevel,
	"ended before":          ruleEndedBefore,
	"limits of the role":    ruleLimitsOfTheRole,
	"max hold":              ruleMaxHold,
	"nested":                ruleNested,
	"many keys":             ruleManyKeys,
	"own transaction":       ruleOwnTransaction,
	"own transaction waits": ruleOwnTransactionWaits,
	"own transaction ended": ruleOwnTransactionEnded,
	"stale snapshot":        ruleStaleSnapshot,
	"token":                 ruleToken,
	"slots":                 ruleSlots,
	"exec":                  ruleExec,
	"exec waits":            ruleExecWaits,
	"events":                ruleEvents,
	"traced":                ruleTraced,
}

// notOnThePlainPath are the rules that the plain path does not keep: see
// Options.Plain, and the tests that name it.
var notOnThePlainPath = map[string]bool{
	"failed statement":     true, // the error tells of no statement
	"ends its transaction": true, // fn can
	"under a statement":    true, // pgx closes the connection, and on a wait that is cancelled
	"waits that end":       true,
	"session is gone":      true, // the meter hides the socket
	"ends and fails":       true,
	"slots":                true, // not where the level keeps one snapshot
}

// levels are the isolation levels that differ in how a lock is taken.
var levels = map[string]sql.IsolationLevel{
	"read committed":  sql.LevelDefault,
	"repeatable read": sql.LevelRepeatableRead,
	"serializable":    sql.LevelSerializable,
}

const (
	stageName            = "stage" // the application_name of the pool's sessions
	roleLockTimeout      = 150 * time.Millisecond
	roleStatementTimeout = 90 * time.Second
)

// key is what the rules lock.
var key = hashkey.Name("k")

// stage is what a rule is tested on.
type stage struct {
	l       verbs
	other   verbs   // on the same pool, as another program would have it: nothing is nested
	watcher *sql.DB // another pool on the database
	meter   *meter
}

// Both packages keep the contract, at each level, and the plain path as much of it as
// it can.
func TestContract(t *testing.T) {
	t.Parallel()
	for pkg, open := range packages {
		for level, isolation := range levels {
			t.Run(pkg+"/"+level, func(t *testing.T) {
				t.Parallel()
				watcher := newDB(t)
				exec(t, watcher, `create table t (n int)`)
				config, err := pgx.ParseConfig(dsnOf(t, watcher))
				if err != nil {
					t.Fatal(err)
				}
				config.RuntimeParams["application_name"] = stageName
				config.RuntimeParams["lock_timeout"] = strconv.Itoa(int(roleLockTimeout.Milliseconds()))
				config.RuntimeParams["statement_timeout"] = strconv.Itoa(int(roleStatementTimeout.Milliseconds()))
				m := new(meter)
				m.on(config)
				l := open(t, config)
				o := xactlock.Options{Isolation: isolation}
				s := &stage{l: l.With(o), other: l.With(o), watcher: watcher, meter: m}
				for name, rule := range maps.All(rules) {
					if pkg == plain && notOnThePlainPath[name] {
						continue
					}
					t.Run(name, func(t *testing.T) {
						exec(t, watcher, `truncate t`)
						rule(t, s)
						noTrace(t, watcher)
						until(t, "no connection is in use", func() bool { return l.InUse() == 0 })
					})
				}
			})
		}
	}
}

// with returns the stage's package with other options, at the stage's level.
func (s *stage) with(o xactlock.Options) verbs {
	o.Isolation = s.l.Options().Isolation
	return s.l.With(o)
}

// oneSnapshot reports whether the stage's level keeps one snapshot.
func (s *stage) oneSnapshot() bool { return s.l.Options().Isolation != sql.LevelDefault }

// has checks how many rows t has.
func (s *stage) has(t *testing.T, want int) {
	t.Helper()
	if n := rows(t, s.watcher); n != want {
		t.Errorf("t has %d rows, want %d", n, want)
	}
}

// taken checks that the lock of key is held, as another call sees it.
func (s *stage) taken(t *testing.T, key hashkey.Key) {
	t.Helper()
	wantError(t, s.other.TryWithTx(t.Context(), key, unreached(t)), xactlock.ErrNotAcquired)
}

// keepsConnections checks that f costs the pool none.
func (s *stage) keepsConnections(t *testing.T, f func()) {
	t.Helper()
	if err := s.l.WithTx(t.Context(), hashkey.Name("warm"), idle); err != nil { // so that it has one
		t.Fatal(err)
	}
	before := s.sessions(t)
	f()
	until(t, "no connection is in use", func() bool { return s.l.InUse() == 0 })
	now := s.sessions(t)
	for _, pid := range before {
		if !slices.Contains(now, pid) {
			t.Errorf("the sessions of the pool were %v, and are %v", before, now)
		}
	}
}

// sessions are the server's sessions of the pool.
func (s *stage) sessions(t *testing.T) (pids []string) {
	t.Helper()
	const query = `select coalesce(string_agg(pid::text, ' '), '') from pg_stat_activity where datname = current_database() and application_name = '` + stageName + `'`
	var all string
	if err := s.watcher.QueryRow(query).Scan(&all); err != nil {
		t.Fatal(err)
	}
	return strings.Fields(all)
}

// held has another call hold key until release.
func (s *stage) held(t *testing.T, key hashkey.Key) (release func()) {
	t.Helper()
	h := hold(t, xactlock.New(s.watcher), key)
	return func() {
		if err := h.release(); err != nil {
			t.Error(err)
		}
	}
}

// waits waits until a call waits for a lock on the server.
func (s *stage) waits(t *testing.T) {
	t.Helper()
	until(t, "a call waits on the server", func() bool { return waitingLocks(t, s.watcher) == 1 })
}

// idle is an fn that does nothing.
func idle(context.Context, transaction) error { return nil }

// write is an fn that writes one row.
func write(ctx context.Context, tx transaction) error {
	return tx.Exec(ctx, `insert into t values (1)`)
}

// unreached is the fn of a call that must not get so far.
func unreached(tb testing.TB) work {
	return func(context.Context, transaction) error {
		tb.Error("fn ran")
		return nil
	}
}

// pid returns the id of the transaction's session.
func pid(t *testing.T, tx transaction) int {
	t.Helper()
	text, err := tx.Text(t.Context(), `select pg_backend_pid()::text`)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// locksOf returns how many advisory locks a session holds.
func (s *stage) locksOf(t *testing.T, pid int) int {
	t.Helper()
	return number(t, s.watcher, `select count(*) from pg_locks where pid = $1 and granted and`+inThisDatabase, pid)
}
