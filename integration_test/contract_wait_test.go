package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// The first statement of fn sees what the holder before has committed, at every
// level, though the wait began before that.
func ruleFreshReads(t *testing.T, s *stage) {
	exec(t, s.watcher, `insert into t values (0)`)
	add := func(ctx context.Context, tx transaction) error {
		n, err := tx.Text(ctx, `select n::text from t`)
		if err != nil {
			return err
		}
		return tx.Exec(ctx, `update t set n = $1::text::int + 1`, n)
	}
	inside, leave, first := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		first <- s.l.WithTx(t.Context(), key, func(ctx context.Context, tx transaction) error {
			close(inside)
			<-leave
			return add(ctx, tx)
		})
	}()
	<-inside
	second := make(chan error, 1)
	go func() { second <- s.other.WithTx(t.Context(), key, add) }()
	s.waits(t)
	close(leave)
	if err := errors.Join(<-first, <-second); err != nil {
		t.Error(err)
	}
	if n := number(t, s.watcher, `select n from t`); n != 2 {
		t.Errorf("n is %d after two additions", n)
	}
}

// However a wait ends, the error says why, nothing waits on, and the connection
// goes back whole.
func ruleWaitsEnd(t *testing.T, s *stage) {
	defer s.held(t, key)()
	for _, ending := range endings {
		t.Run(ending.name, func(t *testing.T) {
			s.keepsConnections(t, func() {
				var o xactlock.Options
				ctx, cancel := ending.begin(bounded(t), &o)
				defer cancel()
				done := make(chan error, 1)
				go func() { done <- s.with(o).WithTx(ctx, key, unreached(t)) }()
				if ending.why == context.Canceled {
					s.waits(t)
					cancel()
				}
				notAcquired(t, <-done, ending.why)
			})
		})
	}
}

// A try is refused at once, and also while Poll sleeps nothing waits on the server.
func ruleTries(t *testing.T, s *stage) {
	release := s.held(t, key)
	s.keepsConnections(t, func() {
		_, err := s.l.TryValue(t.Context(), key, func(context.Context, transaction) (int, error) { return 0, nil })
		for name, err := range map[string]error{
			"TryWithTx":    s.l.TryWithTx(t.Context(), key, unreached(t)),
			"TryWithTxAll": s.l.TryWithTxAll(t.Context(), []hashkey.Key{hashkey.Int64(1), key}, unreached(t)),
			"TryValue":     err,
		} {
			if !errors.Is(err, xactlock.ErrNotAcquired) {
				t.Errorf("%s: got %v, want ErrNotAcquired", name, err)
			}
		}
	})
	sent := s.meter.messages.Load()
	done := make(chan error, 1)
	go func() { done <- s.with(xactlock.Options{Poll: time.Millisecond}).WithTx(t.Context(), key, idle) }()
	until(t, "it has asked often", func() bool { return s.meter.messages.Load() > sent+10 })
	if n := waitingLocks(t, s.watcher); n != 0 {
		t.Errorf("%d wait on the server", n)
	}
	release()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := s.l.TryWithTxAll(t.Context(), []hashkey.Key{hashkey.Int64(1), key}, idle); err != nil {
		t.Error(err)
	}
}

// Shared holders are inside at once, and no other is, nor are they beside another.
func ruleShared(t *testing.T, s *stage) {
	l := s.with(xactlock.Options{Shared: true})
	err := l.WithTx(t.Context(), key, func(context.Context, transaction) error {
		s.taken(t, key)
		return l.TryWithTx(t.Context(), key, idle)
	})
	if err != nil {
		t.Error(err)
	}
	defer s.held(t, key)()
	wantError(t, l.TryWithTx(t.Context(), key, unreached(t)), xactlock.ErrNotAcquired)
}

// ReadOnly has the server refuse to write.
func ruleReadOnly(t *testing.T, s *stage) {
	const readOnlySQLTransaction = "25006"
	if err := s.with(xactlock.Options{ReadOnly: true}).WithTx(t.Context(), key, write); sqlState(err) != readOnlySQLTransaction {
		t.Errorf("got %v, want SQLSTATE %s", err, readOnlySQLTransaction)
	}
}

// fn's transaction has the level of the options.
func ruleLevel(t *testing.T, s *stage) {
	err := s.l.WithTx(t.Context(), key, func(ctx context.Context, tx transaction) error {
		got, err := tx.Text(ctx, `show transaction_isolation`)
		if want := s.l.Options().Isolation; got != strings.ToLower(want.String()) && (want != sql.LevelDefault || got != "read committed") {
			t.Errorf("the level is %s, want %v", got, want)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// A ctx that has ended before the call is ErrNotAcquired, by every verb.
func ruleEndedBefore(t *testing.T, s *stage) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, execErr := s.l.Exec(ctx, key, `insert into t values (1)`)
	for name, err := range map[string]error{
		"WithTx":    s.l.WithTx(ctx, key, unreached(t)),
		"TryWithTx": s.l.TryWithTx(ctx, key, unreached(t)),
		"WithSlot":  s.l.WithSlot(ctx, key, 2, unreached(t)),
		"Exec":      execErr,
	} {
		if !errors.Is(err, xactlock.ErrNotAcquired) || !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want ErrNotAcquired", name, err)
		}
	}
	s.has(t, 0)
}

// The role's limits do not bound the wait, and fn finds them as they were.
func ruleLimitsOfTheRole(t *testing.T, s *stage) {
	release := s.held(t, key)
	done := make(chan error, 1)
	var found []string
	go func() {
		done <- s.l.WithTx(t.Context(), key, func(ctx context.Context, tx transaction) error {
			for _, setting := range []string{"lock_timeout", "statement_timeout"} {
				value, err := tx.Text(ctx, `select setting from pg_settings where name = '`+setting+`'`)
				if err != nil {
					return err
				}
				found = append(found, value)
			}
			return nil
		})
	}()
	until(t, "a wait takes longer than the role may wait", func() bool {
		return number(t, s.watcher, `select count(*) from pg_locks where not granted and waitstart < clock_timestamp() - $1::interval and`+inThisDatabase,
			(2*roleLockTimeout).String()) == 1
	})
	release()
	if err := <-done; err != nil {
		t.Error(err)
	}
	want := []string{strconv.Itoa(int(roleLockTimeout.Milliseconds())), strconv.Itoa(int(roleStatementTimeout.Milliseconds()))}
	if !slices.Equal(found, want) {
		t.Errorf("fn found the limits %v, want %v", found, want)
	}
}

// Several keys are taken together, in one order, each once.
func ruleManyKeys(t *testing.T, s *stage) {
	keys := []hashkey.Key{hashkey.Pair(2, -2), key, hashkey.Int64(-7), key}
	sorted := []hashkey.Key{hashkey.Int64(-7), key, hashkey.Pair(2, -2)}
	slices.SortFunc(sorted, hashkey.Compare)
	s.keepsConnections(t, func() {
		err := s.l.WithTxAll(t.Context(), keys, func(ctx context.Context, tx transaction) error {
			if n := s.locksOf(t, pid(t, tx)); n != 3 {
				t.Errorf("%d locks are held, want 3", n)
			}
			for _, key := range sorted {
				s.taken(t, key)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	if err := s.l.WithTxAll(t.Context(), nil, unreached(t)); err == nil {
		t.Error("no keys are no error")
	}
	// Overlapping keys in any order do not deadlock.
	err := parallel(4, func(i int) error {
		for range 5 {
			keys := slices.Clone(sorted)
			if i%2 == 0 {
				slices.Reverse(keys)
			}
			if err := s.l.WithTxAll(t.Context(), keys[i%2:], write); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	s.has(t, 20)
}

// At most n calls hold a slot, and a free one is found.
func ruleSlots(t *testing.T, s *stage) {
	const n = 2
	inside, leave, left := make(chan struct{}, n), make(chan struct{}), make(chan error, n)
	for range n {
		go func() {
			left <- s.l.WithSlot(t.Context(), key, n, func(ctx context.Context, tx transaction) error {
				inside <- struct{}{}
				<-leave
				return write(ctx, tx)
			})
		}()
	}
	for range n {
		<-inside
	}
	wantError(t, s.other.TryWithSlot(t.Context(), key, n, unreached(t)), xactlock.ErrNotAcquired)
	s.taken(t, key)
	s.taken(t, key.Slot(1))
	third := make(chan error, 1)
	go func() { third <- s.other.WithSlot(t.Context(), key, n, write) }()
	s.waits(t)
	leave <- struct{}{}
	if err := errors.Join(<-third, <-left); err != nil {
		t.Error(err)
	}
	leave <- struct{}{}
	if err := <-left; err != nil {
		t.Error(err)
	}
	s.has(t, n+1)
	if err := s.l.TryWithSlot(t.Context(), key, 0, unreached(t)); err == nil {
		t.Error("no slots are no error")
	}
}

// Exec runs one statement, tells how many rows it affected, and commits.
func ruleExec(t *testing.T, s *stage) {
	s.keepsConnections(t, func() {
		for range 2 { // the second finds the statement prepared
			n, err := s.l.Exec(t.Context(), key, `insert into t select generate_series(1, $1::int)`, 3)
			if n != 3 || err != nil {
				t.Errorf("got %d, %v, want 3 rows", n, err)
			}
		}
		s.has(t, 6)
		_, err := s.l.Exec(t.Context(), key, `insert into t values (1 / $1::int)`, 0)
		if sqlState(err) != "22012" {
			t.Errorf("got %v, want the statement's error", err)
		}
		for _, end := range []string{`commit`, `rollback`} {
			_, err := s.l.Exec(t.Context(), key, end)
			wantError(t, err, xactlock.ErrTxEnded)
		}
		s.has(t, 6)
	})
}

// An Exec waits for its lock, and as long as ctx allows.
func ruleExecWaits(t *testing.T, s *stage) {
	release := s.held(t, key)
	const insert = `insert into t values (1)`
	s.keepsConnections(t, func() {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := s.l.Exec(ctx, key, insert)
		notAcquired(t, err, context.DeadlineExceeded)
	})
	done := make(chan error, 1)
	go func() { _, err := s.l.Exec(t.Context(), key, insert); done <- err }()
	s.waits(t)
	release()
	if err := <-done; err != nil {
		t.Error(err)
	}
	s.has(t, 1)
}

// Observe is told how each call ended.
func ruleEvents(t *testing.T, s *stage) {
	var events []xactlock.Event
	l := s.with(xactlock.Options{Observe: func(e xactlock.Event) { events = append(events, e) }})
	release := s.held(t, key)
	_ = l.TryWithTx(t.Context(), key, unreached(t))
	release()
	_ = l.WithTx(t.Context(), key, idle)
	_ = l.WithTx(t.Context(), key, func(context.Context, transaction) error { return errExpected })
	_, _ = l.Exec(t.Context(), key, `select 1`)
	_ = l.WithSlot(t.Context(), key, 0, unreached(t))
	wants := []xactlock.Event{
		{Op: "TryWithTx", Outcome: xactlock.NotAcquired, Contended: true},
		{Op: "WithTx", Outcome: xactlock.Committed},
		{Op: "WithTx", Outcome: xactlock.RolledBack},
		{Op: "Exec", Outcome: xactlock.Committed},
		{Op: "WithSlot", Outcome: xactlock.Failed},
	}
	if len(events) != len(wants) {
		t.Fatalf("%d events, want %d", len(events), len(wants))
	}
	for i, want := range wants {
		got := events[i]
		if got.Op != want.Op || got.Outcome != want.Outcome || got.Contended != want.Contended || (got.Err == nil) != (want.Outcome == xactlock.Committed) ||
			len(got.Keys) != 1 || got.Keys[0] != key || got.Waited <= 0 {
			t.Errorf("event %d is %+v, want %+v", i, got, want)
		}
	}
}
