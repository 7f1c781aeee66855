package locksql_test

import (
	"flag"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

var update = flag.Bool("update", false, "write the golden file")

// Every text is in the golden file, so that a change of one is seen as such.
func TestMessages(t *testing.T) {
	const file = "testdata/messages.golden"
	got := texts()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("(-want +got); -update writes the file anew:\n%s", diff)
	}
}

// texts returns all texts, with a heading each.
func texts() string {
	var b strings.Builder
	write := func(heading, text string) {
		fmt.Fprintf(&b, "-- %s\n%s\n\n", heading, strings.ReplaceAll(text, "; ", ";\n"))
	}
	message := func(heading string, m locksql.Message) {
		write(heading, m.Text())
		if m.Prepare {
			for i, s := range m.Statements {
				write(fmt.Sprintf("%s, prepared, %d", heading, i+1), s.SQL)
			}
		}
	}
	separately := func(heading string, m locksql.Message) {
		message(heading, m)
		for i, s := range m.Statements {
			if len(s.Params) > 0 {
				write(fmt.Sprintf("%s, separately, %d", heading, i+1), s.SQL)
			}
		}
	}
	one := []hashkey.Key{hashkey.Int64(7)}
	two := []hashkey.Key{hashkey.Int64(math.MinInt64), hashkey.Pair(-1, 2)}
	for _, t := range []struct {
		name string
		locksql.Transaction
	}{
		{"read committed", locksql.Transaction{Keys: one, Level: locksql.ReadCommitted}},
		{"read committed, shared, a pair", locksql.Transaction{Keys: two[1:], Shared: true, Level: locksql.ReadCommitted}},
		{"read uncommitted, read only, two keys", locksql.Transaction{Keys: two, Level: locksql.ReadUncommitted, ReadOnly: true}},
		{"read committed, MaxHold", locksql.Transaction{Keys: one, Level: locksql.ReadCommitted, MaxHold: time.Second}},
		{"repeatable read, read only", locksql.Transaction{Keys: one, Level: locksql.RepeatableRead, ReadOnly: true}},
		{"read committed, slots", locksql.Transaction{Keys: one, Level: locksql.ReadCommitted, Slots: 3, WaitSlot: 1}},
		{"serializable, slots", locksql.Transaction{Keys: one, Level: locksql.Serializable, Slots: 2}},
		{"serializable, shared, two keys", locksql.Transaction{Keys: two, Shared: true, Level: locksql.Serializable}},
	} {
		message(t.name+": try", t.Try())
		message(t.name+": wait", t.Wait(500*time.Millisecond, false))
		message(t.name+": wait quietly", t.Wait(500*time.Millisecond, true))
		message(t.name+": abandon", t.Abandon())
		for _, outlive := range []bool{false, true} {
			m, index := t.Commit(outlive)
			message(fmt.Sprintf("%s: commit, outlived %t (COMMIT is statement %d)", t.name, outlive, index+1), m)
		}
		message(t.name+": unlock", t.Unlock(true))
	}
	exec := locksql.Transaction{Keys: one, Level: locksql.ReadCommitted}
	before, after := exec.Exec(500 * time.Millisecond)
	message("exec: before", before)
	message("exec: after", after)
	for _, ours := range []bool{false, true} {
		message(fmt.Sprintf("verdict, ours %t: try", ours), locksql.TryIn(false, one, ours))
		message(fmt.Sprintf("verdict, ours %t: try, two keys", ours), locksql.TryIn(true, two, ours))
		message(fmt.Sprintf("verdict, ours %t: wait", ours), locksql.WaitIn(false, two, time.Second, ours))
	}
	for _, key := range two {
		separately(fmt.Sprintf("begun by the caller, %v: try", key), locksql.TryAllIn(true, []hashkey.Key{key}, true))
		separately(fmt.Sprintf("begun by the caller, %v: wait", key), locksql.WaitBegun(false, key, 500*time.Millisecond))
	}
	separately("in one statement: try", locksql.TryAllIn(false, two, false))
	separately("in statements: wait", locksql.WaitIn(true, two, time.Second, false))
	message("verdict: the session tries", locksql.SessionVerdict(locksql.TryLock, false, two))
	message("verdict: the session waits", locksql.WaitForSession(false, two, time.Second))
	message("verdict: MaxHold", locksql.MaxHold(time.Second))
	settings := []locksql.Setting{{Name: "idle_session_timeout", Value: "0ms"}, {Name: "a 'name'", Value: "a value"}}
	session := locksql.SessionLock{Shared: true, Keys: one, PID: 1234}
	message("session: try", session.Try())
	session.Yield, session.Pooled = true, true
	message("session: try, yielding, through a pooler", session.Try())
	session = locksql.SessionLock{Keys: two, PID: 1234, Settings: settings}
	message("session: try one of two, with settings", session.Try())
	message("session: wait for one of two", session.Wait(1, 500*time.Millisecond))
	session.Keys, session.Shared, session.Pooled = one, true, true
	message("session: wait, through a pooler", session.Wait(0, 500*time.Millisecond))
	message("session: unlock", locksql.UnlockSession(false, one[0], true, settings))
	message("session: unlock one of several", locksql.UnlockSession(true, two[1], false, nil))
	message("session: the settings of before", locksql.SetAgain(settings))
	message("session: count", locksql.CountHeld())
	message("session: forsake", locksql.Forsake(false, two...))
	message("session: token", locksql.SessionToken())
	message("plain: try slots", locksql.TrySlotsIn(false, one[0], 2))
	message("plain: wait for slots", locksql.WaitSlotsIn(false, one[0], 2, 1, 500*time.Millisecond))
	return b.String()
}

// A setting takes what fits: a duration is rounded up, and never 0, and never
// more than 24 days.
func TestMilliseconds(t *testing.T) {
	for d, want := range map[time.Duration]int64{
		0: 0, 1: 1, time.Millisecond: 1, time.Millisecond + 1: 2, time.Hour: 3_600_000, math.MaxInt64: math.MaxInt32,
	} {
		if got := locksql.Milliseconds(d); got != want {
			t.Errorf("Milliseconds(%v) = %d, want %d", d, got, want)
		}
	}
	endless := locksql.Transaction{Keys: []hashkey.Key{hashkey.Int64(1)}, Level: locksql.ReadCommitted, MaxHold: math.MaxInt64}
	if text := endless.Try().Text(); strings.Contains(text, "-1") || strings.Contains(text, "2147483648") {
		t.Errorf("MaxHold near the largest Duration: %s", text)
	}
}

// Numbers are quoted, and have their types.
func TestTextOfParams(t *testing.T) {
	s := locksql.Statement{SQL: "select f($1, $2)", Params: []locksql.Param{{Number: math.MinInt64, Type: "bigint"}, {Number: -1}}}
	if got, want := s.Text(), "select f('-9223372036854775808'::bigint, '-1')"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// of its statements.
func TestKnownText(t *testing.T) {
	m, _ := new(locksql.Transaction).Commit(false)
	if got, want := m.Text(), (locksql.Message{Statements: m.Statements}).Text(); got != want {
		t.Errorf("%s, and the statements are %s", got, want)
	}
	if got := m.After(locksql.Rollback).Text(); got != "rollback; "+m.Text() {
		t.Errorf("after a statement: %s", got)
	}
}
