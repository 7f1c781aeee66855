package ecosystem

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// The tests of docs/orms.md. Its code stands in the files of this package, and
// each line of its table is one call of a guideTest.

const accounts = hashkey.Namespace("accounts")

var errInsufficient = errors.New("insufficient funds")

// withdrawal takes amount from an account, by reading its balance and writing it.
type withdrawal func(ctx context.Context, id, amount int64) error

// answer answers a request for a withdrawal.
func answer(w http.ResponseWriter, err error) {
	notAcquired := errors.Is(err, xactlock.ErrNotAcquired)
	waited := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, errInsufficient):
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
	case notAcquired && !waited: // a try found the lock taken
		http.Error(w, "somebody else is at it", http.StatusConflict)
	case notAcquired, errors.Is(err, xactlock.ErrDeadlock), errors.Is(err, xactlock.ErrLockTableFull),
		errors.Is(err, xactlock.ErrStandby), errors.Is(err, xactlock.ErrLost):
		slog.Warn("nothing is committed", "error", err)
		w.Header().Set("Retry-After", "1") // second
		http.Error(w, "nothing was done: try again", http.StatusServiceUnavailable)
	case errors.Is(err, xactlock.ErrCommitUnknown): // it is done, or it is not
		slog.Error("look whether it is committed", "error", err)
		http.Error(w, "look before you try again", http.StatusGatewayTimeout)
	default:
		slog.Error("request failed", "error", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
	}
}

// handler serves POST requests with ?id and ?amount.
func (withdraw withdrawal) handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err1 := strconv.ParseInt(r.URL.Query().Get("id"), 10, 64)
		amount, err2 := strconv.ParseInt(r.URL.Query().Get("amount"), 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer(w, withdraw(r.Context(), id, amount))
	})
}

func TestAnswer(t *testing.T) {
	var logged strings.Builder
	logger, writer, flags := slog.Default(), log.Writer(), log.Flags()
	defer func() { slog.SetDefault(logger); log.SetOutput(writer); log.SetFlags(flags) }()
	slog.SetDefault(slog.New(slog.NewTextHandler(&logged, nil)))
	ended := func(why error) error { return fmt.Errorf("%w: %w", xactlock.ErrNotAcquired, why) }
	for _, test := range []struct {
		err    error
		status int
	}{
		{nil, http.StatusNoContent},
		{errInsufficient, http.StatusUnprocessableEntity},
		{xactlock.ErrNotAcquired, http.StatusConflict},
		{ended(context.DeadlineExceeded), http.StatusServiceUnavailable},
		{ended(context.Canceled), http.StatusServiceUnavailable},
		{xactlock.ErrDeadlock, http.StatusServiceUnavailable},
		{xactlock.ErrLockTableFull, http.StatusServiceUnavailable},
		{xactlock.ErrStandby, http.StatusServiceUnavailable},
		{xactlock.ErrLost, http.StatusServiceUnavailable},
		{xactlock.ErrCommitUnknown, http.StatusGatewayTimeout},
		{xactlock.ErrNested, http.StatusInternalServerError},
		{xactlock.ErrTxEnded, http.StatusInternalServerError},
		{context.DeadlineExceeded, http.StatusInternalServerError},
	} {
		logged.Reset()
		recorder := httptest.NewRecorder()
		answer(recorder, test.err)
		if recorder.Code != test.status {
			t.Errorf("%v: status %d, want %d", test.err, recorder.Code, test.status)
		}
		if again := recorder.Header().Get("Retry-After"); (again != "") != (test.status == http.StatusServiceUnavailable) {
			t.Errorf("%v: status %d, Retry-After %q", test.err, recorder.Code, again)
		}
		if test.status >= http.StatusInternalServerError && !strings.Contains(logged.String(), test.err.Error()) {
			t.Errorf("%v is not in the log: %s", test.err, logged.String())
		}
	}
}

// request asks for amount of account 1.
func request(t *testing.T, withdraw withdrawal, amount int64) (status int) {
	t.Helper()
	recorder := httptest.NewRecorder()
	target := fmt.Sprintf("/?id=1&amount=%d", amount)
	withdraw.handler().ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodPost, target, nil))
	return recorder.Code
}

// guideTest is a library's section of docs/orms.md, tested.
type guideTest struct {
	library string
	with    func(xactlock.Options) // gives its Locker other options
	calls   []guideCall
}

// guideCall is a line of the table: a way to guard a withdrawal.
type guideCall struct {
	call string // as the table has it
	path string // "fast", or "plain" where Event.Plain says so
	op   string // what Event.Op says
	run  withdrawal
}

// accountsTable creates the table accounts. sqlc reads it, too.
//
//go:embed sqlc/schema.sql
var accountsTable string

// guideDatabase makes a database with account 1, which only a transaction that
// holds a lock can update, and returns a pool of another process on it.
func guideDatabase(t *testing.T) (dsn string, other *sql.DB) {
	t.Helper()
	dsn = pgtest.New(t).Scratch(t)
	other = openPgx(t, dsn)
	other.SetMaxOpenConns(2)
	exec(t, other, accountsTable)
	exec(t, other, `create function has_lock() returns trigger language plpgsql as $$ begin
		if not exists (select from pg_locks where locktype = 'advisory' and pid = pg_backend_pid() and granted) then
			raise 'the transaction holds no lock';
		end if;
		return new;
	end $$`)
	exec(t, other, `create trigger has_lock before update on accounts for each row execute function has_lock()`)
	setBalance(t, other, 0)
	return dsn, other
}

// setBalance sets the balance of account 1, without a lock.
func setBalance(t *testing.T, db *sql.DB, balance int) {
	t.Helper()
	exec(t, db, fmt.Sprintf(`delete from accounts where id = 1; insert into accounts values (1, %d)`, balance))
}

func (g guideTest) run(t *testing.T, other *sql.DB) {
	otherL := xactlock.New(other)
	var lines []string
	for _, c := range g.calls {
		lines = append(lines, fmt.Sprintf("| %s | %s | %s | [`%s`]", g.library, c.call, c.path, t.Name()))
		t.Run(c.op, func(t *testing.T) {
			g.takesTurns(t, c, other, otherL)
			g.givesUp(t, c, other, otherL)
		})
	}
	if _, table := guideTable(t); !slices.Equal(table[t.Name()], lines) {
		t.Errorf("docs/orms.md has of %s the lines\n%s\nwant\n%s", t.Name(),
			strings.Join(table[t.Name()], "\n"), strings.Join(lines, "\n"))
	}
}

// takesTurns checks that no withdrawal is lost beside those of another process,
// that one that cannot be is refused, and which path the calls take.
func (g guideTest) takesTurns(t *testing.T, c guideCall, other *sql.DB, otherL *xactlock.Locker) {
	const goroutines, turns = 3, 4
	setBalance(t, other, 2*goroutines*turns)
	events := &recorder{}
	g.with(xactlock.Options{Trace: events})
	var group sync.WaitGroup
	for range goroutines {
		group.Go(func() {
			for range turns {
				if status := request(t, c.run, 1); status != http.StatusNoContent {
					t.Errorf("status %d, want 204", status)
				}
				if err := withdrawBeside(t.Context(), otherL, 1, 1); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if n := number(t, other, `select balance from accounts`); n != 0 {
		t.Errorf("the balance is %d, want 0", n)
	}
	if status := request(t, c.run, 1); status != http.StatusUnprocessableEntity {
		t.Errorf("a withdrawal from an empty account: status %d, want 422", status)
	}
	if n := number(t, other, `select balance from accounts`); n != 0 {
		t.Errorf("the balance is %d, want 0", n)
	}
	if ended := events.all(); len(ended) != goroutines*turns+1 {
		t.Errorf("%d calls, want %d", len(ended), goroutines*turns+1)
	}
	for _, e := range events.all() {
		if e.Op != c.op || e.Plain != (c.path == "plain") {
			t.Errorf("%s, plain = %t, want %s on the path %q", e.Op, e.Plain, c.op, c.path)
		}
	}
}

// givesUp checks that a call whose wait is over answers 503, and leaves nothing.
func (g guideTest) givesUp(t *testing.T, c guideCall, other *sql.DB, otherL *xactlock.Locker) {
	setBalance(t, other, 1)
	g.with(xactlock.Options{Wait: 20 * time.Millisecond})
	err := otherL.WithTx(t.Context(), accounts.ID(1), func(context.Context, *sql.Tx) error {
		if status := request(t, c.run, 1); status != http.StatusServiceUnavailable {
			t.Errorf("while another one holds the lock: status %d, want 503", status)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if n := number(t, other, `select balance from accounts`); n != 1 {
		t.Errorf("the balance is %d, want 1", n)
	}
	until(t, "no lock is left", func() bool { return number(t, other, `select count(*)`+advisory+`true`) == 0 })
	until(t, "no transaction is open", func() bool {
		return number(t, other, `select count(*) from pg_stat_activity
			where datname = current_database() and pid <> pg_backend_pid() and xact_start is not null`) == 0
	})
}

// withdrawBeside is what a process does that has no other library.
func withdrawBeside(ctx context.Context, l *xactlock.Locker, id, amount int64) error {
	return l.WithTx(ctx, accounts.ID(id), func(ctx context.Context, tx *sql.Tx) error {
		var balance int64
		if err := tx.QueryRowContext(ctx, `select balance from accounts where id = $1`, id).Scan(&balance); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `update accounts set balance = $2 where id = $1`, id, balance-amount)
		return err
	})
}

// recorder is a xactlock.Tracer that keeps what it is told of the ends of calls.
type recorder struct {
	mu    sync.Mutex
	ended []xactlock.Event // guarded by mu
}

func (r *recorder) TraceStart(ctx context.Context, _ xactlock.Call) context.Context { return ctx }
func (r *recorder) TraceGranted(context.Context, xactlock.Event)                    {}
func (r *recorder) TraceEnd(_ context.Context, e xactlock.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = append(r.ended, e)
}

func (r *recorder) all() []xactlock.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ended)
}

// guideTable returns the lines of the table of docs/orms.md by the tests that they
// name, each up to the name's link.
func guideTable(t *testing.T) (tests []string, lines map[string][]string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/orms.md")
	if err != nil {
		t.Fatal(err)
	}
	lines = make(map[string][]string)
	for line := range strings.Lines(string(text)) {
		line, _, linked := strings.Cut(strings.TrimSpace(line), "](")
		cells := strings.Split(line, " | ")
		if !linked || !strings.HasPrefix(line, "| ") || len(cells) != 4 {
			continue
		}
		test := strings.Trim(cells[3], "[`")
		if lines[test] == nil {
			tests = append(tests, test)
		}
		lines[test] = append(lines[test], line+"]")
	}
	return tests, lines
}
