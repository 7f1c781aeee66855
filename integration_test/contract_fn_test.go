package integration_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// fn runs while the lock is held. nil commits; an error rolls back, and is what
// the call returns.
func ruleReturns(t *testing.T, s *stage) {
	s.keepsConnections(t, func() {
		err := s.l.WithTx(t.Context(), key, func(ctx context.Context, tx transaction) error {
			if n := s.locksOf(t, pid(t, tx)); n != 1 {
				t.Errorf("the session has %d locks, want 1", n)
			}
			s.taken(t, key)
			return write(ctx, tx)
		})
		if err != nil {
			t.Error(err)
		}
		s.has(t, 1)
		err = s.l.WithTx(t.Context(), key, func(ctx context.Context, tx transaction) error {
			return errors.Join(write(ctx, tx), errExpected)
		})
		if !errors.Is(err, errExpected) {
			t.Errorf("got %v, want fn's error", err)
		}
		s.has(t, 1)
		if same := s.l.WithTx(t.Context(), key, func(context.Context, transaction) error { return errExpected }); same != errExpected {
			t.Errorf("got %v, want the very error that fn returned", same)
		}
	})
}

// A panic rolls back and reaches the caller, with fn's frames.
func rulePanics(t *testing.T, s *stage) {
	s.keepsConnections(t, func() {
		var stack string
		value := func() (value any) {
			defer func() {
				value = recover()
				stack = string(debug.Stack())
			}()
			_ = s.l.WithTx(t.Context(), key, panickingFn)
			return nil
		}()
		if value != errExpected || !strings.Contains(stack, ".panickingFn(") {
			t.Errorf("recovered %v, with the stack\n%s", value, stack)
		}
		s.has(t, 0)
	})
}

func panickingFn(ctx context.Context, tx transaction) error {
	_ = write(ctx, tx)
	panic(errExpected)
}

// runtime.Goexit rolls back.
func ruleExits(t *testing.T, s *stage) {
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = s.l.WithTx(context.Background(), key, func(ctx context.Context, tx transaction) error {
			_ = write(ctx, tx)
			runtime.Goexit()
			return nil
		})
		t.Error("WithTx has returned")
	}()
	<-exited
	s.has(t, 0)
}

// A result is returned if it is committed.
func ruleValue(t *testing.T, s *stage) {
	for name, value := range map[string]func(context.Context, hashkey.Key, func(context.Context, transaction) (int, error)) (int, error){
		"Value": s.l.Value, "TryValue": s.l.TryValue,
	} {
		for _, want := range []error{nil, errExpected} {
			n, err := value(t.Context(), key, func(context.Context, transaction) (int, error) { return 7, want })
			if err != want || (n == 7) != (want == nil) {
				t.Errorf("%s returned %d, %v, and fn 7, %v", name, n, err, want)
			}
		}
	}
}

// A statement that fails does not free the lock, and an fn that keeps its error to
// itself commits nothing: the call's error tells of it.
func ruleFailedStatement(t *testing.T, s *stage) {
	s.keepsConnections(t, func() {
		for _, swallows := range []bool{false, true} {
			var failure error
			err := s.l.WithTx(t.Context(), key, func(ctx context.Context, tx transaction) error {
				if err := write(ctx, tx); err != nil {
					return err
				}
				if failure = tx.Exec(ctx, `select 1/$1::int`, 0); failure == nil {
					t.Error("the statement has not failed")
				}
				_ = tx.Exec(ctx, `select 'another statement'`)
				s.taken(t, key)
				if swallows {
					return nil
				}
				return failure
			})
			const divisionByZero = "22012"
			var server *pgconn.PgError
			if !errors.As(err, &server) || server.Code != divisionByZero {
				t.Errorf("got %v, want the statement's error", err)
			}
			if !swallows && err != failure || swallows && !errors.Is(err, pgx.ErrTxCommitRollback) {
				t.Errorf("got %v; fn swallows the error %t", err, swallows)
			}
			s.has(t, 0)
		}
	})
}

// fn goes on behind a savepoint of its own.
func ruleSavepoint(t *testing.T, s *stage) {
	err := s.l.WithTx(t.Context(), key, func(ctx context.Context, tx transaction) error {
		if err := tx.Exec(ctx, `savepoint mine`); err != nil {
			return err
		}
		_ = tx.Exec(ctx, `select 1/0`)
		if err := tx.Exec(ctx, `rollback to savepoint mine`); err != nil {
			return err
		}
		s.taken(t, key)
		return write(ctx, tx)
	})
	if err != nil {
		t.Error(err)
	}
	s.has(t, 1)
}

// The transaction is not fn's to end. Commit is refused, Rollback noted, and text
// that ends it has done what it says.
func ruleEndsItsTransaction(t *testing.T, s *stage) {
	for name, test := range map[string]struct {
		end  work
		rows int
	}{
		"Commit": {func(ctx context.Context, tx transaction) error {
			if err := tx.Commit(ctx); !errors.Is(err, xactlock.ErrTxEnded) {
				t.Errorf("Commit returned %v, want ErrTxEnded", err)
			}
			s.taken(t, key)
			if err := write(ctx, tx); err == nil {
				t.Error("a statement runs after Commit")
			}
			return nil
		}, 0},
		"Rollback": {func(ctx context.Context, tx transaction) error {
			err := tx.Rollback(ctx)
			s.taken(t, key)
			return err
		}, 0},
		"commit":          {func(ctx context.Context, tx transaction) error { return tx.Exec(ctx, `commit`) }, 1},
		"commit and more": {func(ctx context.Context, tx transaction) error { return tx.Exec(ctx, `commit; begin`) }, 1},
		"rollback":        {func(ctx context.Context, tx transaction) error { return tx.Exec(ctx, `rollback`) }, 0},
		"and chain":       {func(ctx context.Context, tx transaction) error { return tx.Exec(ctx, `commit and chain`) }, 1},
		"after a select":  {func(ctx context.Context, tx transaction) error { return tx.Exec(ctx, `select 1; rollback; begin`) }, 0},
	} {
		exec(t, s.watcher, `truncate t`)
		err := s.l.WithTx(t.Context(), key, func(ctx context.Context, tx transaction) error {
			return errors.Join(write(ctx, tx), test.end(ctx, tx))
		})
		if !errors.Is(err, xactlock.ErrTxEnded) {
			t.Errorf("%s: got %v, want ErrTxEnded", name, err)
		}
		if n := rows(t, s.watcher); n != test.rows {
			t.Errorf("%s: t has %d rows, want %d", name, n, test.rows)
		}
	}
}

// What a statement of fn has committed is not called rolled back, whatever else
// happens.
func ruleEndsAndFails(t *testing.T, s *stage) {
	var e xactlock.Event
	l := s.with(xactlock.Options{Observe: func(x xactlock.Event) { e = x }})
	for name, end := range map[string]func(ctx context.Context, pid int, cancel func()) error{
		"error": func(context.Context, int, func()) error { return errExpected },
		"ctx":   func(_ context.Context, _ int, cancel func()) error { cancel(); return nil },
		"panic": func(context.Context, int, func()) error { panic(errExpected) },
		"loss": func(ctx context.Context, pid int, _ func()) error {
			exec(t, s.watcher, `select pg_terminate_backend($1, 10000)`, pid)
			<-ctx.Done()
			return nil
		},
	} {
		exec(t, s.watcher, `truncate t`)
		ctx, cancel := context.WithCancel(t.Context())
		panicked, err := returned(t, func() error {
			return l.WithTx(ctx, key, func(ctx context.Context, tx transaction) error {
				pid := pid(t, tx)
				if err := errors.Join(write(ctx, tx), tx.Exec(ctx, `commit`)); err != nil {
					return err
				}
				return end(ctx, pid, cancel)
			})
		})
		cancel()
		why := map[string]error{"error": errExpected, "ctx": context.Canceled}[name]
		switch {
		case name == "panic" && panicked != errExpected:
			t.Errorf("%s: the panic is %v, the error %v", name, panicked, err)
		case name != "panic" && !errors.Is(err, xactlock.ErrTxEnded), why != nil && !errors.Is(err, why), errors.Is(err, xactlock.ErrLost):
			t.Errorf("%s: got %v, want ErrTxEnded, %v", name, err, why)
		}
		if e.Outcome != xactlock.Unknown {
			t.Errorf("%s: the outcome is %v", name, e.Outcome)
		}
		s.has(t, 1)
	}
}

// Rows that fn leaves open are closed, and are of no use after that, nor is the
// transaction.
func ruleLeavesRows(t *testing.T, s *stage) {
	s.keepsConnections(t, func() {
		var left rowsOfBoth
		var over transaction
		err := s.l.WithTx(t.Context(), key, func(ctx context.Context, tx transaction) (err error) {
			if err := write(ctx, tx); err != nil {
				return err
			}
			over = tx
			left, err = tx.Query(ctx, `select generate_series(1, 10000)`)
			if err == nil && !left.Next() {
				t.Error("there is no first row")
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		s.has(t, 1)
		if left.Next() {
			t.Error("the rows go on")
		}
		if err := over.Exec(t.Context(), `select 1`); err == nil {
			t.Error("the transaction goes on")
		}
		if _, err := over.Query(t.Context(), `select 1`); err == nil {
			t.Error("the transaction goes on")
		}
		if over.Commit(t.Context()) == nil || over.Rollback(t.Context()) == nil {
			t.Error("the transaction can be ended")
		}
	})
}

// Rows that fn leaves open, under a ctx that it made of its own, do no harm: they
// are closed before that ctx ends.
func ruleRowsEndLast(t *testing.T, s *stage) {
	for _, o := range []xactlock.Options{{}, {MaxHold: time.Hour}} {
		s.keepsConnections(t, func() {
			err := s.with(o).WithTx(t.Context(), key, func(ctx context.Context, tx transaction) error {
				_, err := tx.Query(context.WithValue(ctx, ownKey{}, 1), `select repeat('x', 9000), pg_sleep(0.01) from generate_series(1, 30)`)
				return err
			})
			if err != nil {
				t.Errorf("MaxHold %v: %v", o.MaxHold, err)
			}
		})
	}
}

type ownKey struct{}

// fn's ctx does not outlive the call, however fn ended.
func ruleContextEndsWithTheCall(t *testing.T, s *stage) {
	for how, end := range map[string]func() error{
		"returns nil":      func() error { return nil },
		"returns an error": func() error { return errExpected },
		"panics":           func() error { panic(errExpected) },
	} {
		var asked, derived, unasked context.Context
		for _, kept := range []*context.Context{&asked, &unasked} {
			func() {
				defer func() { _ = recover() }()
				_ = s.l.WithTx(t.Context(), key, func(ctx context.Context, _ transaction) error {
					*kept = ctx
					if kept == &asked {
						var cancel context.CancelFunc
						derived, cancel = context.WithCancel(ctx)
						t.Cleanup(cancel)
					}
					if err := ctx.Err(); err != nil {
						t.Errorf("while the lock is held the ctx has ended: %v", err)
					}
					return end()
				})
			}()
		}
		for name, ctx := range map[string]context.Context{"its ctx": asked, "its ctx, asked for its end too late": unasked, "a derived one": derived} {
			select {
			case <-ctx.Done():
			case <-time.After(patience):
				t.Fatalf("fn %s: %s goes on", how, name)
			}
			if ctx.Err() != context.Canceled || context.Cause(ctx) != context.Canceled {
				t.Errorf("fn %s: %s: %v, because of %v", how, name, ctx.Err(), context.Cause(ctx))
			}
		}
	}
}

// The lock outlives ctx: it is held until fn returns, and nothing is committed.
func ruleContextEnds(t *testing.T, s *stage) {
	s.keepsConnections(t, func() {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		err := s.l.WithTx(ctx, key, func(ctx context.Context, tx transaction) error {
			if err := write(ctx, tx); err != nil {
				return err
			}
			cancel()
			if err := write(ctx, tx); !errors.Is(err, context.Canceled) {
				t.Errorf("a statement: %v, want context.Canceled", err)
			}
			s.taken(t, key)
			return nil
		})
		wantError(t, err, context.Canceled)
		if errors.Is(err, xactlock.ErrNotAcquired) {
			t.Errorf("got %v, and fn ran", err)
		}
		s.has(t, 0)
	})
}

// A statement whose ctx ends is cancelled on the server, where it would not end by
// itself, and takes neither the connection nor the lock along.
func ruleContextEndsUnderAStatement(t *testing.T, s *stage) {
	const sleep = `select pg_sleep(3600)::text`
	for name, statement := range map[string]work{
		"exec": func(ctx context.Context, tx transaction) error { return tx.Exec(ctx, sleep) },
		"row":  func(ctx context.Context, tx transaction) error { _, err := tx.Text(ctx, sleep); return err },
		"rows": func(ctx context.Context, tx transaction) error {
			rows, err := tx.Query(ctx, `select repeat('x', 8000) from generate_series(1, 1000) union all `+sleep)
			if err != nil {
				return err
			}
			for rows.Next() {
			}
			return rows.Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			s.keepsConnections(t, func() {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				err := s.l.WithTx(ctx, key, func(ctx context.Context, tx transaction) error {
					id := pid(t, tx)
					go func() {
						s.sleeps(t, id)
						cancel()
					}()
					if err := statement(ctx, tx); !errors.Is(err, context.Canceled) {
						t.Errorf("the statement: %v, want context.Canceled", err)
					}
					if n := s.locksOf(t, id); n != 1 {
						t.Errorf("%d locks are held inside fn, want 1", n)
					}
					return nil
				})
				wantError(t, err, context.Canceled)
			})
		})
	}
}

// sleeps waits until the session executes pg_sleep.
func (s *stage) sleeps(t *testing.T, pid int) {
	until(t, "the statement runs", func() bool {
		return number(t, s.watcher, `select count(*) from pg_stat_activity where pid = $1 and wait_event = 'PgSleep'`, pid) == 1
	})
}

// fn is told when its session is gone, whether a statement runs or not, and so is the
// caller, whatever fn returns.
func ruleSessionGone(t *testing.T, s *stage) {
	for name, then := range map[string]work{
		"fails":   func(ctx context.Context, tx transaction) error { return errExpected },
		"returns": func(ctx context.Context, tx transaction) error { return nil },
		"waits": func(ctx context.Context, tx transaction) error {
			isTold(t, ctx)
			return ctx.Err()
		},
		"goes on": func(ctx context.Context, tx transaction) error { return write(ctx, tx) },
	} {
		err := s.l.WithTx(t.Context(), key, func(ctx context.Context, tx transaction) error {
			if err := write(ctx, tx); err != nil {
				return err
			}
			kill(t, s.watcher, pid(t, tx))
			return then(ctx, tx)
		})
		if wantError(t, err, xactlock.ErrLost); errors.Is(err, xactlock.ErrCommitUnknown) {
			t.Errorf("%s: got %v, and no COMMIT was sent", name, err)
		}
		s.has(t, 0)
	}
	err := s.l.WithTx(t.Context(), key, func(ctx context.Context, tx transaction) error {
		id := pid(t, tx)
		go func() {
			s.sleeps(t, id)
			kill(t, s.watcher, id)
		}()
		if err := tx.Exec(ctx, `select pg_sleep(3600)`); err == nil {
			t.Error("the statement is executed")
		}
		isTold(t, ctx)
		return nil
	})
	wantError(t, err, xactlock.ErrLost)
}

// A holder that outstays MaxHold is told, and Grace later its session is ended.
// One that obeys is not overlapped.
func ruleMaxHold(t *testing.T, s *stage) {
	for _, obeys := range []bool{true, false} {
		t.Run(fmt.Sprintf("obeys %t", obeys), func(t *testing.T) {
			// Grace is never over where fn obeys, on the slowest machine.
			o := xactlock.Options{MaxHold: 500 * time.Millisecond, Grace: patience}
			if !obeys {
				o.Grace = 50 * time.Millisecond
			}
			inside, over, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			go func() {
				done <- s.with(o).WithTx(t.Context(), key, func(ctx context.Context, tx transaction) error {
					if err := write(ctx, tx); err != nil {
						return err
					}
					close(inside)
					<-ctx.Done()
					wantError(t, context.Cause(ctx), sessionlock.ErrMaxHold)
					if obeys {
						s.taken(t, key)
						return nil
					}
					<-over
					return nil
				})
			}()
			select {
			case <-inside:
			case err := <-done:
				t.Fatalf("fn did not get so far: %v", err)
			}
			if obeys {
				wantError(t, <-done, context.DeadlineExceeded, sessionlock.ErrMaxHold)
			} else {
				if err := s.other.WithTx(bounded(t), key, idle); err != nil {
					t.Errorf("the next holder: %v", err)
				}
				close(over)
				wantError(t, <-done, xactlock.ErrLost)
			}
			s.has(t, 0)
		})
	}
}

// A call with fn's ctx, on the same pool, is refused.
func ruleNested(t *testing.T, s *stage) {
	var kept context.Context
	err := s.l.WithTx(bounded(t), key, func(ctx context.Context, tx transaction) error {
		kept = ctx
		other := hashkey.Name("other")
		_, execErr := s.l.Exec(ctx, other, `select 1`)
		for name, err := range map[string]error{
			"WithTx":    s.other.WithTx(ctx, other, unreached(t)),
			"TryWithTx": s.l.TryWithTx(context.WithoutCancel(ctx), other, unreached(t)),
			"WithTxAll": s.l.WithTxAll(ctx, []hashkey.Key{other, key}, unreached(t)),
			"WithSlot":  s.l.WithSlot(ctx, other, 2, unreached(t)),
			"Exec":      execErr,
		} {
			if !errors.Is(err, xactlock.ErrNested) {
				t.Errorf("%s: got %v, want ErrNested", name, err)
			}
		}
		return s.l.WithTx(t.Context(), other, idle) // with another ctx
	})
	if err != nil {
		t.Error(err)
	}
	if err := s.l.WithTx(context.WithoutCancel(kept), key, idle); err != nil {
		t.Errorf("with the ctx of an fn that has returned: %v", err)
	}
	if err := s.l.WithTx(kept, key, idle); errors.Is(err, xactlock.ErrNested) || !errors.Is(err, context.Canceled) {
		t.Errorf("with the ctx of an fn that has returned, which has ended: %v", err)
	}
}
