package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// Whatever the options, the lock is one message and the unlock another.
func TestSessionMessages(t *testing.T) {
	t.Parallel()
	var m meter
	db := openMetered(t, newDatabase(t), &m)
	db.SetMaxOpenConns(1)
	key := hashkey.Name("wire")
	for bits := range 16 {
		o := sessionlock.Options{Shared: bits&1 != 0, Pooler: bits&2 != 0}
		if bits&4 != 0 {
			o.Wait = time.Minute
		}
		if bits&8 != 0 {
			o.Poll = time.Minute
		}
		locker := sessionlock.New(db).With(o)
		for name, take := range map[string]func(context.Context, hashkey.Key) (*sessionlock.Lock, error){
			"Lock": locker.Lock, "TryLock": locker.TryLock,
		} {
			var k *sessionlock.Lock
			takes := func() (err error) { k, err = take(t.Context(), key); return err }
			if err := takes(); err != nil { // and the connection is there
				t.Fatal(err)
			}
			unlock(t, k)
			if n := m.during(t, takes); n != 1 {
				t.Errorf("%s %+v: %d messages, want 1", name, o, n)
			}
			if n := m.during(t, func() error { return k.Unlock() }); n != 1 {
				t.Errorf("%s %+v: Unlock: %d messages, want 1", name, o, n)
			}
		}
	}
	if n := m.dials.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	noTrace(t, db)
}

func TestSessionLockExcludes(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	for _, key := range []hashkey.Key{
		hashkey.Name("name"), hashkey.Int64(0), hashkey.Int64(math.MinInt64), hashkey.Int64(-5),
		hashkey.Pair(math.MinInt32, -1), hashkey.Pair(1, 2),
	} {
		k := lock(t, sessionlock.New(db), key)
		if k.Key() != key {
			t.Errorf("Key is %v, want %v", k.Key(), key)
		}
		notLost(t, k)
		_, err := sessionlock.New(other).TryLock(t.Context(), key)
		wantError(t, err, sessionlock.ErrNotAcquired)
		err = xactlock.New(other).TryWithTx(t.Context(), key, unreachable(t))
		wantError(t, err, sessionlock.ErrNotAcquired)
		unlock(t, k)
		isFree(t, other, key)
	}
	noTrace(t, db, other)
}

// A refused try gives its connection back as it was, and does not lose it.
func TestSessionRefusedTryKeepsConnection(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	key := hashkey.Name("refused")
	defer unlock(t, lock(t, sessionlock.New(db), key))
	other.SetMaxOpenConns(1)
	before, settings := number(t, other, `select pg_backend_pid()`), settingsOf(t, other)
	for range 3 {
		_, err := sessionlock.New(other).TryLock(t.Context(), key)
		wantError(t, err, sessionlock.ErrNotAcquired)
		if !strings.Contains(err.Error(), `"refused"`) {
			t.Errorf("%v does not name the key", err)
		}
	}
	if after := number(t, other, `select pg_backend_pid()`); after != before {
		t.Error("the connection was replaced")
	}
	if diff := cmp.Diff(settings, settingsOf(t, other)); diff != "" {
		t.Error(diff)
	}
}

func TestSessionShared(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	key := hashkey.Name("shared")
	shared := sessionlock.New(db).With(sessionlock.Options{Shared: true})
	a, b := lock(t, shared, key), lock(t, shared, key)
	_, err := sessionlock.New(other).TryLock(t.Context(), key)
	wantError(t, err, sessionlock.ErrNotAcquired)
	unlock(t, a)
	unlock(t, b)
	isFree(t, other, key)
	noTrace(t, db, other)
}

func TestSessionInvalid(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for field, o := range map[string]sessionlock.Options{
		"Wait": {Wait: -1}, "Poll": {Poll: -1}, "Check": {Check: -1}, "DeadClient": {DeadClient: -1},
	} {
		_, err := sessionlock.New(db).With(o).Lock(t.Context(), hashkey.Int64(1))
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: the error is %v", field, err)
		}
	}
	if _, err := sessionlock.New(nil).Lock(t.Context(), hashkey.Int64(1)); err == nil {
		t.Error("a nil pool is no error")
	}
	if err := sessionlock.New(db).WithLock(t.Context(), hashkey.Int64(1), nil); err == nil {
		t.Error("a nil fn is no error")
	}
}

// However the wait ends, the error says so, and whatever the server made of
// it, the lock is not in the pool.
func TestSessionWaitEnds(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	key := hashkey.Name("wait ends")
	holding := lock(t, sessionlock.New(other), key)
	locker := sessionlock.New(db)
	expired, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		name   string
		ctx    context.Context
		locker *sessionlock.Locker
		want   error
	}{
		{"Wait", bounded(t), locker.With(sessionlock.Options{Wait: 10 * time.Millisecond}), context.DeadlineExceeded},
		{"Wait, polling", bounded(t), locker.With(sessionlock.Options{Wait: 10 * time.Millisecond, Poll: time.Millisecond}), context.DeadlineExceeded},
		{"deadline", expired, locker, context.DeadlineExceeded},
		{"over before", over, locker, context.Canceled},
	} {
		_, err := test.locker.Lock(test.ctx, key)
		t.Logf("%s: %v", test.name, err)
		wantError(t, err, sessionlock.ErrNotAcquired, test.want)
	}
	unlock(t, holding)
	noTrace(t, db, other)
}

// Options.Wait bounds a try that finds no connection, and a refused try is refused
// at once, whatever Wait says.
func TestSessionTryWait(t *testing.T) {
	t.Parallel()
	for name, o := range homes {
		db, other := two(t)
		db.SetMaxOpenConns(1)
		key := hashkey.Name(name)
		try := func(wait time.Duration) []error {
			o.Wait = wait
			l := sessionlock.New(db).With(o)
			ctx := bounded(t)
			_, err := l.TryLock(ctx, key)
			return []error{
				err,
				l.TryWithLock(ctx, key, func(context.Context, *sql.Conn) error { return errExpected }),
				l.TryWithSlot(ctx, key, 1, func(context.Context, *sql.Conn) error { return errExpected }),
			}
		}
		conn, err := db.Conn(t.Context()) // the only one
		wantNoError(t, err)
		for _, err := range try(50 * time.Millisecond) {
			wantError(t, err, sessionlock.ErrNotAcquired, context.DeadlineExceeded)
		}
		conn.Close()
		k := lock(t, sessionlock.New(other), key)
		for _, err := range try(time.Hour) {
			if !errors.Is(err, sessionlock.ErrNotAcquired) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: a refused try: %v", name, err)
			}
		}
		unlock(t, k)
		noTrace(t, other, db)
	}
}

func TestSessionCancelledWait(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	key := hashkey.Name("cancelled")
	holding := lock(t, sessionlock.New(other), key)
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := sessionlock.New(db).Lock(ctx, key)
		done <- err
	}()
	until(t, "it waits", func() bool { return waitingLocks(t, other) == 1 })
	start := time.Now()
	cancel(errExpected)
	err := <-done
	if took := time.Since(start); took > time.Second {
		t.Errorf("returned %v after the cancellation", took)
	}
	wantError(t, err, sessionlock.ErrNotAcquired, context.Canceled, errExpected)
	unlock(t, holding)
	noTrace(t, db, other)
}

// The wait is the caller's to bound, not the role's, and the holder finds the
// role's limits as they were.
func TestSessionWaitIsNotTheRoles(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	other := openDB(t, dsn, func(c *pgx.ConnConfig) { c.RuntimeParams["statement_timeout"] = "0" })
	for _, name := range []string{"lock_timeout", "statement_timeout", "transaction_timeout"} {
		if number(t, other, `select count(*) from pg_settings where name = $1`, name) == 1 {
			exec(t, other, fmt.Sprintf(`do $$ begin execute format('alter database %%I set %s = ''250ms''', current_database()); end $$`, name))
		}
	}
	db := openDB(t, dsn)
	key := hashkey.Name("role")
	holding := lock(t, sessionlock.New(other), key)
	locked := make(chan *sessionlock.Lock, 1)
	go func() { locked <- lock(t, sessionlock.New(db), key) }()
	until(t, "it waits for longer than the role would", func() bool {
		return number(t, other, `select count(*) from pg_stat_activity
			where datname = current_database() and wait_event_type = 'Lock' and clock_timestamp() - query_start > interval '300 ms'`) == 1
	})
	unlock(t, holding)
	k := <-locked
	var limits string
	err := k.Conn().QueryRowContext(t.Context(),
		`select current_setting('lock_timeout') || ' ' || current_setting('statement_timeout')`).Scan(&limits)
	if err != nil || limits != "250ms 250ms" {
		t.Errorf("the holder finds %q, %v", limits, err)
	}
	unlock(t, k)
	noTrace(t, other, db)
}

func TestSessionNested(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	key, another := hashkey.Name("nested"), hashkey.Name("another")
	locker := sessionlock.New(db)
	err := locker.WithLock(t.Context(), key, func(ctx context.Context, _ *sql.Conn) error {
		for _, try := range []func(context.Context, hashkey.Key) (*sessionlock.Lock, error){locker.Lock, locker.TryLock} {
			_, err := try(ctx, key)
			wantError(t, err, sessionlock.ErrNested)
		}
		wantError(t, xactlock.New(db).WithTx(ctx, key, unreachable(t)), sessionlock.ErrNested)
		if err := xactlock.New(db).WithTx(ctx, another, nothing); err != nil {
			return err
		}
		return locker.WithLock(ctx, another, func(context.Context, *sql.Conn) error { return nil })
	})
	if err != nil {
		t.Error(err)
	}
	err = xactlock.New(db).WithTx(t.Context(), key, func(ctx context.Context, _ *sql.Tx) error {
		_, err := locker.Lock(ctx, key)
		return err
	})
	wantError(t, err, sessionlock.ErrNested)
	noTrace(t, db)
}

// A ctx that outlives its fn refuses nothing.
func TestSessionNotNested(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	key := hashkey.Name("kept")
	locker := sessionlock.New(db)
	var kept context.Context
	err := locker.WithLock(t.Context(), key, func(ctx context.Context, _ *sql.Conn) error {
		kept = context.WithoutCancel(ctx)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	unlock(t, lockUnder(kept, t, locker, key))
	noTrace(t, db)
}

// Tokens grow from holder to holder, whoever it is, and stay the same for one.
func TestSessionToken(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	key := hashkey.Name("token")
	var tokens []uint64
	for i := range 6 {
		k := lock(t, sessionlock.New([]*sql.DB{db, other}[i%2]), key)
		token, err := k.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if again, err := k.Token(t.Context()); again != token || err != nil {
			t.Errorf("asked again, the token is %d (%v), not %d", again, err, token)
		}
		unlock(t, k)
		tokens = append(tokens, token)
		_, err = k.Token(t.Context())
		wantError(t, err, sessionlock.ErrUnlocked)
	}
	if !slices.IsSorted(tokens) || len(slices.Compact(slices.Clone(tokens))) != len(tokens) {
		t.Errorf("tokens do not grow: %v", tokens)
	}
}

// The token is one, whoever asks for it first, and there is none any more once
// the lock is lost: work that begins then must not pass for the holder's.
func TestSessionTokenOfOneLock(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	k := lock(t, sessionlock.New(db).With(quick), hashkey.Name("token"))
	tokens := make([]uint64, 8)
	err := parallel(len(tokens), func(i int) (err error) {
		tokens[i], err = k.Token(t.Context())
		return err
	})
	if err != nil || len(slices.Compact(slices.Clone(tokens))) != 1 {
		t.Errorf("asked at once, the tokens are %v (%v), want one", tokens, err)
	}
	terminate(t, other, backend(t, k))
	lostWithin(t, k, time.Second)
	if token, err := k.Token(t.Context()); token != 0 || !errors.Is(err, sessionlock.ErrLost) {
		t.Errorf("after the loss the token is %d (%v), want %v", token, err, sessionlock.ErrLost)
	}
	wantError(t, k.Unlock(), sessionlock.ErrLost)
	noTrace(t, db, other)
}

// Rows that are open on Conn are an error of Token, and cost neither them nor the
// lock.
func TestSessionTokenUnderRows(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	k := lock(t, sessionlock.New(db).With(quick), hashkey.Name("token"))
	const n = 100_000 // more than there is room for on the way
	rows, err := k.Conn().QueryContext(t.Context(), `select generate_series(1, $1::int)`, n)
	if err != nil {
		t.Fatal(err)
	}
	if token, err := k.Token(t.Context()); err == nil {
		t.Errorf("the token is %d while rows are open", token)
	}
	got := 0
	for rows.Next() {
		got++
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil || got != n {
		t.Errorf("there are %d rows: %v", got, err)
	}
	if _, err := k.Token(t.Context()); err != nil {
		t.Error(err)
	}
	unlock(t, k)
	noTrace(t, db)
}

// The end of its ctx ends Token, also where the server does not answer, and another call
// asks. The lock is lost soon; but no Shareable one, for a short ctx of one caller.
func TestSessionTokenOfASilentServer(t *testing.T) {
	t.Parallel()
	for name, o := range homes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := newDatabase(t)
			p, through := newProxy(t, dsn)
			db, other := openDB(t, dsn, through), openDB(t, dsn)
			o.Check = time.Hour
			k := lock(t, sessionlock.New(db).With(o), hashkey.Name("token"))
			p.silent.Store(true)
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			wantNoError(t, parallel(2, func(int) error {
				began := time.Now()
				_, err := k.Token(ctx)
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("Token took %v", took)
				}
				wantError(t, err, context.DeadlineExceeded)
				return nil
			}))
			if o.Shareable {
				notLost(t, k)
				p.cutAll()
			}
			<-k.Lost()
			wantError(t, k.Err(), sessionlock.ErrLost)
			p.cutAll()
			wantError(t, k.Unlock(), sessionlock.ErrLost)
			noTrace(t, other, db)
		})
	}
}

// A ctx that ends while the token is asked for does not cost the lock.
func TestSessionTokenCancelled(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	k := lock(t, sessionlock.New(db).With(quick), hashkey.Name("token"))
	for i := range stress(2000) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%50)*20*time.Microsecond)
		_, err := k.Token(ctx)
		cancel()
		if err == nil {
			unlock(t, k)
			k = lock(t, sessionlock.New(db).With(quick), hashkey.Name("token"))
			continue
		}
		notLost(t, k)
	}
	unlock(t, k)
}
