package lockerr_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
)

// late is a context whose deadline has come and that has not noticed, as
// between two timers.
type late struct{ context.Context }

func (late) Deadline() (time.Time, bool) { return time.Now().Add(-time.Nanosecond), true }

type stateError string

func (e stateError) Error() string    { return "ERROR (SQLSTATE " + string(e) + ")" }
func (e stateError) SQLState() string { return string(e) }

func TestAcquireError(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	reason := errors.New("shutting down")
	caused, cause := context.WithCancelCause(t.Context())
	cause(reason)
	for _, test := range []struct {
		name string
		ctx  context.Context
		err  error
		want []error
		not  error
	}{
		{"cancelled", cancelled, nil, []error{lockerr.ErrNotAcquired, context.Canceled}, lockerr.ErrDeadlock},
		{"cancelled in a statement", cancelled, stateError("57014"), []error{lockerr.ErrNotAcquired, context.Canceled, stateError("57014")}, nil},
		{"cancelled with a cause", caused, nil, []error{lockerr.ErrNotAcquired, context.Canceled, reason}, nil},
		{"a dial's deadline", late{t.Context()}, os.ErrDeadlineExceeded, []error{lockerr.ErrNotAcquired, context.DeadlineExceeded, os.ErrDeadlineExceeded}, nil},
		{"lock_timeout", t.Context(), stateError("55P03"), []error{lockerr.ErrNotAcquired, context.DeadlineExceeded, stateError("55P03")}, nil},
		{"deadlock", t.Context(), stateError("40P01"), []error{lockerr.ErrDeadlock, stateError("40P01")}, lockerr.ErrNotAcquired},
		{"lock table full", t.Context(), stateError("53200"), []error{lockerr.ErrLockTableFull, stateError("53200")}, lockerr.ErrNotAcquired},
		{"other", t.Context(), stateError("28P01"), []error{stateError("28P01")}, lockerr.ErrNotAcquired},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := lockerr.AcquireError(test.ctx, "test", []hashkey.Key{hashkey.Name("k")}, test.err)
			for _, want := range test.want {
				if !errors.Is(err, want) {
					t.Errorf("%v is not %v", err, want)
				}
			}
			if test.not != nil && errors.Is(err, test.not) {
				t.Errorf("%v is %v", err, test.not)
			}
		})
	}
}

// fieldError is an error as bun's pgdriver has them.
type fieldError map[byte]string

func (e fieldError) Error() string         { return "ERROR" }
func (e fieldError) Field(key byte) string { return e[key] }

// Drivers tell the SQLSTATE in two ways.
func TestSQLState(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{errors.New("broken pipe"), ""},
		{stateError("3B001"), "3B001"},
		{fmt.Errorf("query: %w", stateError("3B001")), "3B001"},
		{fieldError{'S': "ERROR", 'C': "3B001"}, "3B001"},
		{fmt.Errorf("query: %w", fieldError{'C': "3B001"}), "3B001"},
	} {
		if got := lockerr.SQLState(test.err); got != test.want {
			t.Errorf("SQLState(%v) = %q, want %q", test.err, got, test.want)
		}
	}
}

// What ctx has ended with is joined once.
func TestBecause(t *testing.T) {
	reason, failure := errors.New("shutting down"), stateError("57014")
	caused, cause := context.WithCancelCause(t.Context())
	if err := lockerr.Because(caused, failure); err != failure {
		t.Errorf("ctx goes on: %v", err)
	}
	cause(reason)
	if err := lockerr.Because(caused, nil); err != nil {
		t.Errorf("no error: %v", err)
	}
	for _, err := range []error{failure, fmt.Errorf("%w: %w", context.Canceled, failure)} {
		got := lockerr.Because(caused, err)
		for _, want := range []error{failure, context.Canceled, reason} {
			if !errors.Is(got, want) {
				t.Errorf("%v is not %v", got, want)
			}
		}
		if twice := lockerr.Because(caused, got); twice != got {
			t.Errorf("joined twice: %v", twice)
		}
	}
}

func TestKeys(t *testing.T) {
	var keys []hashkey.Key
	for i := range 6 {
		keys = append(keys, hashkey.Int64(int64(i)))
	}
	if got, want := lockerr.Keys(keys), "0, 1, 2, 3 and 2 more"; got != want {
		t.Errorf("Keys = %q, want %q", got, want)
	}
}

// A message begins with one prefix: that of the error, where it is the library's
// own, or else that of the package.
func TestOnePrefix(t *testing.T) {
	keys := []hashkey.Key{hashkey.Int64(7)}
	for _, test := range []struct {
		err  error
		want string
	}{
		{lockerr.ErrStandby, lockerr.ErrStandby.Error() + ": 7"},
		{lockerr.ErrPooler, lockerr.ErrPooler.Error() + ": 7"},
		{fmt.Errorf("%w, and not a driver", lockerr.ErrDriver), lockerr.ErrDriver.Error() + ", and not a driver: 7"},
		{errors.New("test: out of step"), "test: out of step: 7"},
		{errors.New("testing"), "test: 7: testing"},
		{fmt.Errorf("begin: %w", lockerr.ErrStandby), "test: 7: begin: " + lockerr.ErrStandby.Error()},
	} {
		err := lockerr.AcquireError(t.Context(), "test", keys, test.err)
		if err.Error() != test.want || !errors.Is(err, test.err) {
			t.Errorf("got %v, want %s", err, test.want)
		}
	}
}
