package pgadvisoryotel

import (
	"cmp"
	"context"
	"errors"

	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// errPanic stands for the error of a call that returns none.
var errPanic = errors.New("a panic has ended the call, or its goroutine has ended")

// failure returns the error of a call that has failed. A try that was refused has
// not; acquired is whether the call got its lock, so that the error may be fn's own.
// failed is whether a call without an error has: by a panic, in fn or while the pool
// connects.
func failure(err error, acquired, failed bool) error {
	switch {
	case err == nil && failed:
		return errPanic
	case !acquired && errors.Is(err, xactlock.ErrNotAcquired) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded):
		return nil
	}
	return err
}

// names are the errors that say most, by what error.type is for them.
var names = []struct {
	err  error
	name string
}{
	{errPanic, "panic"},
	{xactlock.ErrNotAcquired, "ErrNotAcquired"},
	{xactlock.ErrNested, "ErrNested"},
	{xactlock.ErrTxEnded, "ErrTxEnded"},
	{xactlock.ErrStaleSnapshot, "ErrStaleSnapshot"},
	{xactlock.ErrCommitUnknown, "ErrCommitUnknown"},
	{xactlock.ErrLost, "ErrLost"},
	{xactlock.ErrDeadlock, "ErrDeadlock"},
	{xactlock.ErrLockTableFull, "ErrLockTableFull"},
	{xactlock.ErrUnsupportedServer, "ErrUnsupportedServer"},
	{xactlock.ErrStandby, "ErrStandby"},
	{xactlock.ErrDriver, "ErrDriver"},
	{sessionlock.ErrPooler, "ErrPooler"},
}

// errorType returns what error.type is for err. Its values are few.
func errorType(err error) string {
	for _, known := range names {
		if errors.Is(err, known.err) {
			return known.name
		}
	}
	return cmp.Or(lockerr.SQLState(err), "_OTHER") // OpenTelemetry's name for whatever has none
}
