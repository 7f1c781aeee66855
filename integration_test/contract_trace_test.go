package integration_test

import (
	"context"
	"errors"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// The tracer is told of the start, the grant and the end of a call, however it
// ends, and fn's ctx is made from the tracer's.
func ruleTraced(t *testing.T, s *stage) {
	r := &recorder{t: t}
	l := s.with(xactlock.Options{Trace: r})
	errFn := errors.New("of fn")
	for name, end := range map[string]func() error{
		"returns": func() error { return nil },
		"fails":   func() error { return errFn },
		"panics":  func() error { panic(errFn) },
	} {
		func() {
			defer func() { _ = recover() }()
			_ = l.WithTx(t.Context(), key, func(ctx context.Context, _ transaction) error {
				r.isTraced(ctx)
				return end()
			})
		}()
		if r.atEnd.Op != "WithTx" || (r.atEnd.Outcome == xactlock.Committed) != (name == "returns") {
			t.Errorf("%s: the end is %+v", name, r.atEnd)
		}
		r.was(wholeCall...)
	}
	if r.call.Op != "WithTx" || len(r.call.Keys) != 1 || r.call.Keys[0] != key || r.atGrant.Outcome != xactlock.Granted {
		t.Errorf("the start is %+v, and the grant %+v", r.call, r.atGrant)
	}

	release := s.held(t, key)
	wantError(t, l.TryWithTx(t.Context(), key, unreached(t)), xactlock.ErrNotAcquired)
	r.was("start", "end")
	tx, err := s.l.Begin(t.Context(), "read committed")
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := l.TryLock(t.Context(), tx, key); ok || err != nil || r.atEnd.Outcome != xactlock.NotAcquired {
		t.Errorf("a lock that is taken: %t, %v, %+v", ok, err, r.atEnd)
	}
	r.was("start", "end")
	if err := l.Lock(t.Context(), tx, hashkey.Name("free")); err != nil || r.atEnd.Op != "Lock" {
		t.Errorf("a free lock: %v, %+v", err, r.atEnd)
	}
	r.was(wholeCall...)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Error(err)
	}
	release()
}
