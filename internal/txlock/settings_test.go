package txlock_test

import (
	"database/sql"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/txlock"
)

// What is wrong with a setting is said by the option's name, and by whose it is.
func TestValidate(t *testing.T) {
	for field, s := range map[string]txlock.Settings{
		"Wait":       {Wait: -1},
		"Poll":       {Poll: -1},
		"MaxHold":    {MaxHold: -1},
		"Grace":      {Grace: -1},
		"MaxWaiters": {MaxWaiters: -1},
		"Isolation":  {Isolation: sql.LevelSnapshot},
	} {
		if err := s.Validate("mine"); err == nil || !strings.HasPrefix(err.Error(), "mine: Options."+field) {
			t.Errorf("%s: got %v", field, err)
		}
	}
	if err := new(txlock.Settings).Validate("mine"); err != nil {
		t.Error(err)
	}
}

// The level is always named. The server is told of a limit a tenth of a second
// after the one that the process keeps, and no limit overflows.
func TestTransaction(t *testing.T) {
	for level, want := range map[sql.IsolationLevel]string{
		sql.LevelDefault:         locksql.ReadCommitted,
		sql.LevelReadUncommitted: locksql.ReadUncommitted,
		sql.LevelRepeatableRead:  locksql.RepeatableRead,
		sql.LevelSerializable:    locksql.Serializable,
	} {
		if got := (&txlock.Settings{Isolation: level}).Transaction(nil).Level; got != want {
			t.Errorf("%v is %q, want %q", level, got, want)
		}
	}
	for _, test := range []struct{ maxHold, grace, longest, atServer time.Duration }{
		{0, time.Minute, 0, 0},
		{time.Second, 0, 2 * time.Second, 2100 * time.Millisecond},
		{time.Second, time.Minute, 61 * time.Second, 61100 * time.Millisecond},
		{math.MaxInt64, time.Hour, math.MaxInt64, math.MaxInt64},
	} {
		s := txlock.Settings{MaxHold: test.maxHold, Grace: test.grace}
		var c txlock.Call
		if c.Apply(&s, true); c.Longest != test.longest || !c.Try {
			t.Errorf("%+v: the session ends after %v, want %v", s, c.Longest, test.longest)
		}
		if got := s.Transaction(nil).MaxHold; got != test.atServer {
			t.Errorf("%+v: the server is told %v, want %v", s, got, test.atServer)
		}
	}
}

// Keys are sorted, once each, and never nil.
func TestOrdered(t *testing.T) {
	one, two := hashkey.Int64(1), hashkey.Int64(2)
	if got := txlock.Ordered([]hashkey.Key{two, one, two}); !slices.Equal(got, []hashkey.Key{one, two}) {
		t.Errorf("got %v", got)
	}
	if got := txlock.Ordered(nil); got == nil || len(got) > 0 {
		t.Errorf("got %v, want no keys", got)
	}
}
