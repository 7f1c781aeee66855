package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

func TestLeadReturnsWhatFnReturns(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	key := hashkey.Name("lead")
	locker := sessionlock.New(db)
	for _, want := range []error{nil, errExpected} {
		err := locker.Lead(t.Context(), key, func(ctx context.Context) error {
			if n := heldLocks(t, other); n != 1 {
				t.Errorf("%d locks are held", n)
			}
			return want
		})
		if err != want {
			t.Errorf("error is %v, want %v", err, want)
		}
		isFree(t, other, key)
	}
	func() {
		defer func() {
			if p := recover(); p != errExpected {
				t.Errorf("fn's panic comes back as %v", p)
			}
		}()
		_ = locker.Lead(t.Context(), key, func(context.Context) error { panic(errExpected) })
	}()
	isFree(t, other, key)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = locker.Lead(t.Context(), key, func(context.Context) error { runtime.Goexit(); return nil })
	}()
	<-done
	isFree(t, other, key)
	noTrace(t, db, other)
}

func TestLeadInvalid(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	key := hashkey.Name("invalid")
	fn := func(context.Context) error { t.Error("fn ran"); return nil }
	locker := sessionlock.New(db)
	for name, err := range map[string]error{
		"negative": locker.With(sessionlock.Options{Wait: -1}).Lead(t.Context(), key, fn),
		"shared":   locker.With(sessionlock.Options{Shared: true}).Lead(t.Context(), key, fn),
		"no fn":    locker.Lead(t.Context(), key, nil),
		"no pool":  sessionlock.New(nil).Lead(t.Context(), key, fn),
	} {
		if err == nil {
			t.Errorf("%s is no error", name)
		}
	}
	err := locker.Lead(t.Context(), key, func(ctx context.Context) error { return locker.Lead(ctx, key, fn) })
	wantError(t, err, sessionlock.ErrNested)
	// What waiting does not mend ends the campaign.
	nowhere := openDB(t, pgtest.New(t).DSN(), func(config *pgx.ConnConfig) { config.Database = "there is none" })
	err = sessionlock.New(nowhere).Lead(t.Context(), key, fn)
	if code := lockerr.SQLState(err); code != "3D000" {
		t.Errorf("no such database: %v", err)
	}
	unparsable, err := sql.Open("pgx", "postgres://%zz")
	if err != nil {
		t.Fatal(err)
	}
	defer unparsable.Close()
	err = sessionlock.New(unparsable).Lead(t.Context(), key, fn)
	if !errors.As(err, new(*pgconn.ParseConfigError)) {
		t.Errorf("a connection string that is none: %v", err)
	}
	noTrace(t, db)
}

// A candidate waits until its ctx ends, whatever Wait says, by either way.
func TestLeadCandidateGivesUpWithCtx(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	key := hashkey.Name("candidate")
	k := lock(t, sessionlock.New(other), key)
	for _, o := range []sessionlock.Options{{Wait: time.Millisecond}, {Wait: time.Millisecond, Poll: 5 * time.Millisecond}} {
		start := time.Now() // before ctx's time begins
		ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, errExpected)
		err := sessionlock.New(db).With(o).Lead(ctx, key, func(context.Context) error { t.Error("fn ran"); return nil })
		cancel()
		wantError(t, err, sessionlock.ErrNotAcquired, context.DeadlineExceeded, errExpected)
		if took := time.Since(start); took < 300*time.Millisecond {
			t.Errorf("gave up after %v", took)
		}
	}
	unlock(t, k)
	noTrace(t, db, other)
}

// ctx ends fn, and then Lead.
func TestLeadCtxEnds(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := sessionlock.New(db).Lead(ctx, hashkey.Name("ctx"), func(ctx context.Context) error {
		cancel()
		<-ctx.Done()
		return context.Cause(ctx)
	})
	if err != context.Canceled {
		t.Errorf("error is %v", err)
	}
	noTrace(t, db, other)
}

// After a loss fn is run again, whatever it returned, but never twice at once,
// and with a token that grows.
func TestLeadCampaignsAgain(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	var running atomic.Int64
	var tokens []uint64
	err := sessionlock.New(db).With(quick).Lead(bounded(t), hashkey.Name("again"), func(ctx context.Context) error {
		if running.Add(1) != 1 {
			t.Error("fn runs twice")
		}
		defer running.Add(-1)
		k := sessionlock.FromContext(ctx)
		token, err := k.Token(ctx)
		if err != nil {
			return err
		}
		tokens = append(tokens, token)
		if len(tokens) == 4 {
			return nil
		}
		terminate(t, other, backend(t, k))
		if len(tokens) == 3 { // not even noticed
			until(t, "it is lost", func() bool { return heldLocks(t, other) == 0 })
			return errExpected
		}
		<-ctx.Done()
		if cause := context.Cause(ctx); cause != sessionlock.ErrLost {
			t.Errorf("cause is %v", cause)
		}
		return []error{nil, errExpected}[len(tokens)%2]
	})
	if err != nil || len(tokens) != 4 || !slices.IsSorted(tokens) || len(slices.Compact(tokens)) != 4 {
		t.Errorf("%v, tokens %v", err, tokens)
	}
	noTrace(t, db, other)
}

// A leader has to give the server a sign of life within DeadClient, and does.
func TestLeadLease(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	o := sessionlock.Options{DeadClient: 3 * time.Second}
	err := sessionlock.New(db).With(o).Lead(t.Context(), hashkey.Name("lease"), func(ctx context.Context) error {
		k := sessionlock.FromContext(ctx)
		lease := number(t, connQueryer{k.Conn()}, `select setting from pg_settings where name = 'idle_session_timeout'`)
		if lease != 3000 {
			t.Errorf("idle_session_timeout is %d ms", lease)
		}
		passes(t, other, 2*o.DeadClient)
		notLost(t, k)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	noTrace(t, db, other)
}

// A session whose client must not be silent for DeadClient is asked something three
// times as often: also where Options.Check is as long as that, and after Unlock,
// until MinHold is over.
func TestLeaseSpeaks(t *testing.T) {
	t.Parallel()
	const ask, questions = 2 * time.Second, 3
	o := sessionlock.Options{DeadClient: 3 * ask, Check: ask, MinHold: (1 + questions) * ask}
	key := hashkey.Name("speaks")
	for name, hold := range map[string]func(t *testing.T, db, other *sql.DB) error{
		"Lead": func(t *testing.T, db, _ *sql.DB) error {
			return sessionlock.New(db).With(o).Lead(t.Context(), key, func(context.Context) error { return nil })
		},
		"shareable, waited for": func(t *testing.T, db, other *sql.DB) error {
			first := lock(t, sessionlock.New(other), key)
			o := o
			o.Shareable = true
			granted := make(chan error, 1)
			go func() {
				granted <- sessionlock.New(db).With(o).WithLock(t.Context(), key, func(context.Context, *sql.Conn) error { return nil })
			}()
			until(t, "it waits", func() bool { return waitingLocks(t, other) == 1 })
			unlock(t, first)
			return <-granted
		},
		"shareable": func(t *testing.T, db, _ *sql.DB) error {
			o := o
			o.Shareable = true
			return sessionlock.New(db).With(o).WithLock(t.Context(), key, func(context.Context, *sql.Conn) error { return nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, other := two(t)
			if err := hold(t, db, other); err != nil {
				t.Fatal(err)
			}
			said := func() (when time.Time) {
				err := other.QueryRow(`select state_change from pg_locks join pg_stat_activity using (pid)
					where granted and state = 'idle' and` + inThisDatabase).Scan(&when)
				if err != nil && !errors.Is(err, sql.ErrNoRows) { // while it executes
					t.Fatal(err)
				}
				return when
			}
			last := said()
			for range questions {
				var now time.Time
				until(t, "the session is asked again", func() bool {
					passes(t, other, ask/20)
					now = said()
					return now.After(last)
				})
				if silent := now.Sub(last); !last.IsZero() && silent > ask*7/4 {
					t.Errorf("the session was silent for %v, want %v", silent, ask)
				}
				last = now
			}
			becomesFree(t, other, key)
			noTrace(t, db, other)
		})
	}
}

// While the database cannot be reached the pauses grow, so that candidates are
// not a load on the network.
func TestLeadPauses(t *testing.T) {
	t.Parallel()
	var dials []time.Time
	ctx, cancel := context.WithCancel(t.Context())
	db := openDB(t, pgtest.New(t).DSN(), func(config *pgx.ConnConfig) {
		config.Fallbacks = nil
		config.DialFunc = func(context.Context, string, string) (net.Conn, error) {
			if dials = append(dials, time.Now()); len(dials) == 6 {
				cancel()
			}
			return nil, errExpected
		}
	})
	err := sessionlock.New(db).Lead(ctx, hashkey.Name("pauses"), func(context.Context) error { t.Error("fn ran"); return nil })
	wantError(t, err, sessionlock.ErrNotAcquired, context.Canceled)
	// Each is between a half and the whole of one that doubles from 50 ms on.
	least := 25 * time.Millisecond
	for i := 1; i < len(dials); i++ {
		if pause := dials[i].Sub(dials[i-1]); pause < least {
			t.Errorf("pause %d took %v, want at least %v", i, pause, least)
		}
		least *= 2
	}
}

// Lead waits for a server that has no connection to spare.
func TestLeadWaitsForConnections(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	other := openDB(t, dsn)
	exec(t, other, `create role pgadvisory_crowd login connection limit 0`)
	t.Cleanup(func() { exec(t, other, `drop role pgadvisory_crowd`) })
	var m meter
	db := openDB(t, dsn, m.on, func(config *pgx.ConnConfig) { config.User = "pgadvisory_crowd" })
	done := make(chan error, 1)
	go func() {
		done <- sessionlock.New(db).Lead(t.Context(), hashkey.Name("crowd"), func(context.Context) error { return errExpected })
	}()
	until(t, "it was turned away more than once", func() bool { return m.dials.Load() > 1 || len(done) > 0 })
	exec(t, other, `alter role pgadvisory_crowd connection limit 10`)
	if err := <-done; err != errExpected {
		t.Errorf("error is %v, want fn's", err)
	}
	noTrace(t, other, db)
}

// Lead waits for a standby to be promoted, and leads then.
func TestLeadWaitsForPromotion(t *testing.T) {
	for name, options := range map[string][]func(*pgx.ConnConfig){"read committed": nil, "serializable": {bySerializable}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			leadWaitsForPromotion(t, options...)
		})
	}
}

func leadWaitsForPromotion(t *testing.T, options ...func(*pgx.ConnConfig)) {
	standby := pgtest.Dedicated(t).Standby(t)
	var m meter
	db, other := openMetered(t, standby.DSN(), &m, options...), openDB(t, standby.DSN())
	promoted := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- sessionlock.New(db).Lead(t.Context(), hashkey.Name("promoted"), func(context.Context) error {
			select {
			case <-promoted:
			default:
				t.Error("fn runs on a standby")
			}
			return errExpected
		})
	}()
	until(t, "it was refused", func() bool { return m.messages.Load() > 2 || len(done) > 0 })
	close(promoted)
	exec(t, other, `select pg_promote()`)
	if err := <-done; err != errExpected {
		t.Errorf("error is %v, want fn's", err)
	}
	noTrace(t, other, db)
}

// Lead waits for a database that is away, and leads soon after it is back.
func TestLeadWaitsForTheDatabase(t *testing.T) {
	t.Parallel()
	server := pgtest.Dedicated(t)
	db := openDB(t, server.DSN())
	server.Stop(t)
	led := make(chan time.Time, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- sessionlock.New(db).Lead(t.Context(), hashkey.Name("away"), func(context.Context) error {
			led <- time.Now()
			return errExpected
		})
	}()
	until(t, "it cannot connect", func() bool {
		_, err := db.Exec(`select 1`)
		return err != nil && !errors.Is(err, context.Canceled)
	})
	server.Restart(t)
	back := time.Now()
	wantError(t, <-ended, errExpected)
	select {
	case at := <-led:
		if took := at.Sub(back); took > 6*time.Second {
			t.Errorf("leads %v after the database is back", took)
		}
	default:
		t.Error("Lead is over, and fn has not run")
	}
	noTrace(t, db)
}

// It lets them go first also where its term has ended in a panic of fn, or with the
// goroutine.
func TestLeadLetsOthersGoFirstAfterAPanic(t *testing.T) {
	t.Parallel()
	const slice = 500 * time.Millisecond
	for name, end := range map[string]func(){"panic": func() { panic("fn") }, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			waiting := make(chan time.Time, 10)
			o := sessionlock.Options{Observe: func(e sessionlock.Event) {
				if e.Kind == sessionlock.Waiting {
					waiting <- time.Now()
				}
			}}
			l, key := sessionlock.New(newDB(t)).With(o), hashkey.Name("k")
			over := make(chan struct{})
			go func() {
				defer close(over)
				defer func() { _ = recover() }()
				_ = l.Lead(bounded(t), key, func(context.Context) error { end(); return nil })
			}()
			<-over
			wantNoError(t, l.Lead(bounded(t), key, func(context.Context) error { return nil }))
			began := <-waiting
			if again := (<-waiting).Sub(began); again < slice {
				t.Errorf("the leader campaigns again after %v, want %v at least", again, slice)
			}
		})
	}
}

// A leader lets the candidates of other processes go first: with MinHold it does not
// wait for the lock that it has still itself, but begins when the others have asked. A
// lock that is lost is free.
func TestLeadLetsOthersGoFirst(t *testing.T) {
	t.Parallel()
	const minHold, slice = 1500 * time.Millisecond, 500 * time.Millisecond
	for name, o := range homes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, other := two(t)
			waiting := make(chan time.Time, 10)
			o.Check = quick.Check
			o.Observe = func(e sessionlock.Event) {
				if e.Kind == sessionlock.Waiting {
					waiting <- time.Now()
				}
			}
			l, key := sessionlock.New(db), hashkey.Name("k")
			o.MinHold = minHold
			nothing := func(context.Context) error { return nil }
			for range 2 {
				wantNoError(t, l.With(o).Lead(bounded(t), key, nothing))
			}
			began := <-waiting
			if again := (<-waiting).Sub(began); again < minHold+slice {
				t.Errorf("the leader campaigns again after %v, want %v at least", again, minHold+slice)
			}
			o.MinHold = time.Hour
			terms := 0
			ctx, cancel := context.WithCancel(bounded(t))
			err := l.With(o).Lead(ctx, hashkey.Name("lost"), func(fnCtx context.Context) error {
				terminateHolders(t, other)
				<-fnCtx.Done()
				if terms++; terms == 2 {
					cancel()
				}
				return nil
			})
			wantError(t, err, sessionlock.ErrLost, context.Canceled)
			if terms != 2 {
				t.Errorf("%d terms", terms)
			}
		})
	}
}
