package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// bothHosts is the DSN of whichever of two servers can be written to.
func bothHosts(t *testing.T, one, other string) string {
	t.Helper()
	first, err := url.Parse(one)
	if err != nil {
		t.Fatal(err)
	}
	second, err := url.Parse(other)
	if err != nil {
		t.Fatal(err)
	}
	first.Host += "," + second.Host
	first.RawQuery += "&target_session_attrs=read-write&connect_timeout=5"
	return first.String()
}

// A load is goroutines that write under locks, one row for each turn, and
// remember what was acknowledged.
type load struct {
	stop atomic.Bool
	done sync.WaitGroup

	mu     sync.Mutex
	acked  []int64 // guarded by mu: turns whose call returned nil
	failed []int64 // guarded by mu: turns that are said not to be committed
}

func startLoad(t *testing.T, db *sql.DB) *load {
	w := new(load)
	l := xactlock.New(db)
	var turns atomic.Int64
	for i := range 4 {
		key := fmt.Sprintf("register %d", i%2)
		w.done.Go(func() {
			for !w.stop.Load() && t.Context().Err() == nil {
				turn := turns.Add(1)
				err := l.WithTx(t.Context(), hashkey.Name(key), func(ctx context.Context, tx *sql.Tx) error {
					token, err := xactlock.Token(ctx, tx)
					if err != nil {
						return err
					}
					_, err = tx.ExecContext(ctx, `insert into turns (turn, key, token) values ($1, $2, $3)`, turn, key, int64(token))
					return err
				})
				w.told(t, turn, err)
			}
		})
	}
	return w
}

func (w *load) told(t *testing.T, turn int64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		w.acked = append(w.acked, turn)
	case errors.Is(err, xactlock.ErrStandby):
		t.Errorf("turn %d was on a standby: %v", turn, err)
	case !errors.Is(err, xactlock.ErrCommitUnknown):
		w.failed = append(w.failed, turn)
	}
}

func (w *load) acknowledged() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// atLeast waits until n more turns are acknowledged.
func (w *load) atLeast(t *testing.T, n int) {
	t.Helper()
	n += w.acknowledged()
	until(t, fmt.Sprintf("%d turns are acknowledged", n), func() bool { return w.acknowledged() >= n })
}

// A standby is promoted under load, after its primary has died. Pools that name
// both hosts go on by themselves; a pool that is pinned to the standby is refused
// before and served after. With synchronous replication nothing that was
// acknowledged is missing, and tokens grow.
func TestFailover(t *testing.T) {
	t.Parallel()
	primary := pgtest.Dedicated(t)
	standby := primary.Standby(t)
	old := openDB(t, primary.DSN())
	exec(t, old, `create table turns (n bigint generated always as identity, turn bigint, key text, token bigint)`)
	// The standby's copy of the settings has none of this.
	exec(t, old, `alter system set synchronous_standby_names = '*'`)
	exec(t, old, `select pg_reload_conf()`)
	until(t, "replication is synchronous", func() bool {
		return number(t, old, `select count(*) from pg_stat_replication where sync_state = 'sync'`) == 1
	})
	db, pinned := openDB(t, bothHosts(t, primary.DSN(), standby.DSN())), openDB(t, standby.DSN())
	key := hashkey.Name("pinned")
	err := xactlock.New(pinned).WithTx(t.Context(), key, unreachable(t))
	wantError(t, err, xactlock.ErrStandby)
	_, err = sessionlock.New(pinned).TryLock(t.Context(), key)
	wantError(t, err, sessionlock.ErrStandby)

	w := startLoad(t, db)
	terms := make(chan term, 10)
	ctx, resign := context.WithCancel(t.Context())
	led := make(chan error, 1)
	go func() {
		led <- sessionlock.New(db).With(quick).Lead(ctx, hashkey.Name("leader"), func(ctx context.Context) error {
			token, err := sessionlock.FromContext(ctx).Token(ctx)
			terms <- term{token: token, err: err}
			<-ctx.Done()
			terms <- term{end: true, err: context.Cause(ctx)}
			return nil
		})
	}()
	before := nextTerm(t, terms)
	wantNoError(t, before.err)
	w.atLeast(t, 50)

	primary.Crash(t)
	if end := nextTerm(t, terms); !end.end || !errors.Is(end.err, sessionlock.ErrLost) {
		t.Errorf("the leader was told %v, want %v", end.err, sessionlock.ErrLost)
	}
	exec(t, pinned, `select pg_promote()`)
	after := nextTerm(t, terms)
	wantNoError(t, after.err)
	if after.token <= before.token {
		t.Errorf("the leader after the promotion has token %d, the one before had %d", after.token, before.token)
	}
	w.atLeast(t, 50)
	until(t, "the lock is granted through the pinned pool", func() bool {
		return xactlock.New(pinned).WithTx(t.Context(), key, nothing) == nil
	})
	isFree(t, pinned, key)

	w.stop.Store(true)
	w.done.Wait()
	resign()
	if err := <-led; err != nil {
		t.Errorf("Lead: %v", err)
	}
	w.check(t, pinned)
	noTrace(t, pinned, db)
}

// term is what a leader tells: the start of its time, or the end.
type term struct {
	token uint64
	end   bool
	err   error
}

func nextTerm(t *testing.T, terms <-chan term) term {
	t.Helper()
	select {
	case next := <-terms:
		return next
	case <-time.After(2 * patience):
		t.Fatal("the leader tells nothing")
		return term{}
	}
}

func wantNoError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// check compares what was told with what is there.
func (w *load) check(t *testing.T, db *sql.DB) {
	t.Helper()
	if n := number(t, db, `select count(*) from unnest($1::bigint[]) turn where not exists (select from turns t where t.turn = turn.turn)`, w.acked); n > 0 {
		t.Errorf("%d of %d acknowledged turns are missing", n, len(w.acked))
	}
	if n := number(t, db, `select count(*) from turns where turn = any ($1::bigint[])`, w.failed); n > 0 {
		t.Errorf("%d of %d turns that failed are there", n, len(w.failed))
	}
	// The identity, which is asked for under the lock, is the order of the turns.
	if n := number(t, db, `select count(*) from (select token, lag(token) over (partition by key order by n) before from turns) t where token <= before`); n > 0 {
		t.Errorf("%d tokens are not larger than the one before", n)
	}
	t.Logf("%d turns acknowledged, %d failed", len(w.acked), len(w.failed))
}
