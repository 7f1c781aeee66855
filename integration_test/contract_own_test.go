package integration_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// begun begins a transaction of the test's own, which is rolled back at its end.
func (s *stage) begun(t *testing.T, level string) transaction {
	t.Helper()
	tx, err := s.l.Begin(context.Background(), level)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

// goesOn checks that tx can be used on, and commits it.
func goesOn(t *testing.T, tx transaction) {
	t.Helper()
	if err := errors.Join(write(t.Context(), tx), tx.Commit(t.Context())); err != nil {
		t.Errorf("the transaction is of no use any more: %v", err)
	}
}

// Lock and TryLock take keys in a transaction of the caller's own, which has them
// until its end. A TryLock that gets some of them gives those back.
func ruleOwnTransaction(t *testing.T, s *stage) {
	if s.oneSnapshot() {
		return // the level is the caller's here
	}
	keys := []hashkey.Key{hashkey.Pair(2, -2), key, hashkey.Int64(-7), key}
	tx := s.begun(t, "read committed")
	if err := s.l.Lock(t.Context(), tx, keys...); err != nil {
		t.Fatal(err)
	}
	if ok, err := s.l.TryLock(t.Context(), tx, keys...); !ok || err != nil {
		t.Errorf("again: %t, %v", ok, err)
	}
	if n := s.locksOf(t, pid(t, tx)); n != 3 {
		t.Errorf("%d locks are held, want 3", n)
	}
	s.taken(t, key)
	second := s.begun(t, "read committed")
	if ok, err := s.l.TryLock(t.Context(), second, hashkey.Int64(1), key); ok || err != nil {
		t.Errorf("got %t, %v, want false", ok, err)
	}
	if n := s.locksOf(t, pid(t, second)); n != 0 {
		t.Errorf("a refused TryLock leaves %d locks", n)
	}
	goesOn(t, second)
	goesOn(t, tx)
	s.has(t, 2)
	err := s.l.WithTx(t.Context(), key, func(ctx context.Context, tx transaction) error {
		return s.l.Lock(ctx, tx, hashkey.Name("second"))
	})
	if err != nil {
		t.Errorf("a second lock inside fn: %v", err)
	}
	third := s.begun(t, "read committed")
	if err := s.l.Lock(t.Context(), third); err == nil {
		t.Error("no keys are no error")
	}
	goesOn(t, third)
}

// A transaction that a statement has ended holds nothing, and is not said to.
func ruleOwnTransactionEnded(t *testing.T, s *stage) {
	if s.oneSnapshot() {
		return // the level is the caller's here
	}
	for _, end := range []string{"commit", "rollback"} {
		tx := s.begun(t, "read committed")
		if err := tx.Exec(t.Context(), end); err != nil {
			t.Fatal(err)
		}
		for _, keys := range [][]hashkey.Key{{key}, {key, hashkey.Int64(1)}} {
			isOver(t, end, s.l.Lock(t.Context(), tx, keys...))
			ok, err := s.l.TryLock(t.Context(), tx, keys...)
			if isOver(t, end, err); ok {
				t.Errorf("after %s: locked all the same", end)
			}
		}
		_ = tx.Rollback(t.Context()) // some drivers say that there is none
	}
}

// isOver checks that err says that the transaction is over, and names the key.
func isOver(t *testing.T, end string, err error) {
	t.Helper()
	const noActiveSQLTransaction = "25P01"
	if lockerr.SQLState(err) != noActiveSQLTransaction || !strings.Contains(err.Error(), "tx is over") || !strings.Contains(err.Error(), key.String()) {
		t.Errorf("after %s: got %v, want an error that says that tx is over", end, err)
	}
}

// Lock waits, and a deadline ends the wait with the connection whole.
func ruleOwnTransactionWaits(t *testing.T, s *stage) {
	if s.oneSnapshot() {
		return // the level is the caller's here
	}
	release := s.held(t, key)
	s.keepsConnections(t, func() {
		tx := s.begun(t, "read committed")
		var o xactlock.Options
		ctx, cancel := endings[1].begin(t.Context(), &o)
		defer cancel()
		notAcquired(t, s.l.Lock(ctx, tx, hashkey.Int64(math.MinInt64), key), context.DeadlineExceeded)
		if err := tx.Rollback(t.Context()); err != nil {
			t.Error(err)
		}
	})
	tx := s.begun(t, "read committed")
	done := make(chan error, 1)
	go func() { done <- s.l.Lock(t.Context(), tx, key) }()
	s.waits(t)
	release()
	if err := <-done; err != nil {
		t.Error(err)
	}
	_ = tx.Rollback(t.Context())
}

// A transaction with one snapshot is refused, and goes on.
func ruleStaleSnapshot(t *testing.T, s *stage) {
	for _, level := range []string{"repeatable read", "serializable"} {
		tx := s.begun(t, level)
		wantError(t, s.l.Lock(t.Context(), tx, key), xactlock.ErrStaleSnapshot)
		ok, err := s.l.TryLock(t.Context(), tx, key, hashkey.Int64(1))
		if wantError(t, err, xactlock.ErrStaleSnapshot); ok {
			t.Error("locked all the same")
		}
		if n := s.locksOf(t, pid(t, tx)); n != 0 {
			t.Errorf("%d locks are held", n)
		}
		goesOn(t, tx)
	}
	s.has(t, 2)
}

// The token grows from holder to holder, and is one for a transaction.
func ruleToken(t *testing.T, s *stage) {
	var last uint64
	for range 3 {
		err := s.l.WithTx(t.Context(), key, func(ctx context.Context, tx transaction) error {
			token, err := s.l.Token(ctx, tx)
			if err != nil {
				return err
			}
			again, err := s.l.Token(ctx, tx)
			if token <= last || again != token {
				t.Errorf("tokens %d and %d after %d", token, again, last)
			}
			last = token
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}
