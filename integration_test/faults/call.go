package main

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// A call is what a worker is about to do, chosen at random.
type call struct {
	Verb   string
	Keys   []int
	Via    string // the pool
	Style  string // what the callback does
	Level  sql.IsolationLevel
	Shared bool `json:",omitempty"`
	Plain  bool `json:",omitempty"`
	Pgx    bool `json:",omitempty"` // through pgxlock, or a pool of pgx's own

	Wait    time.Duration `json:",omitempty"`
	Poll    time.Duration `json:",omitempty"`
	MaxHold time.Duration `json:",omitempty"`
	Cancel  time.Duration `json:",omitempty"` // when ctx ends, in any phase of the call

	// observed is given what Options.Observe was told, and what the call
	// returned.
	observed func(seen *observation, err error)
}

// The pools of a worker.
const (
	viaDirect  = "direct"  // to PostgreSQL, with faults on the way
	viaPooled  = "pooled"  // to PgBouncer in transaction mode, with faults on both sides of it
	viaSession = "session" // to PostgreSQL, with faults on the way, for what sessions lock
	viaWire    = "wire"    // to PostgreSQL, with no fault on the way
)

// What a callback does with the lock.
const (
	styleWrite  = "write"     // reads a register, and writes what follows
	styleRead   = "read"      // reads a register twice
	styleFail   = "fail"      // has a statement fail, and goes on
	styleError  = "error"     // writes, and returns an error
	stylePanic  = "panic"     // writes, and panics
	styleOccupy = "occupy"    // is there, for slots
	styleIdle   = "idle"      // waits to be told that the lock is lost
	styleFenced = "fenced"    // writes through other sessions, with a token
	styleLast   = "token end" // asks for the token when all is done, which shows that the lock was held
)

var transactionVerbs = []weighted[string]{
	{10, "WithTx"}, {4, "TryWithTx"}, {4, "WithTxAll"}, {1, "TryWithTxAll"},
	{6, "Exec"}, {3, "Lock"}, {1, "TryLock"}, {3, "WithSlot"}, {1, "TryWithSlot"},
	{3, "WithTxOf"}, {2, verbStranger},
}

// verbStranger is another user of the same pool, with no lock at all.
const verbStranger = "stranger"

var sessionVerbs = []weighted[string]{
	{4, "session Lock"}, {2, "session TryLock"}, {4, "session WithLock"}, {1, "session TryWithLock"},
	{3, "session WithSlot"}, {1, "session TryWithSlot"}, {4, "session Shareable"},
}

// randomTransaction chooses a call of xactlock or pgxlock.
func randomTransaction(r *rand.Rand) call {
	c := call{Verb: pick(r, transactionVerbs), Via: viaDirect}
	if r.IntN(2) == 0 {
		c.Via = viaPooled
	}
	c.Pgx = c.Verb != "WithTxOf" && r.IntN(2) == 0
	c.chooseKeys(r)
	switch c.Verb {
	case verbStranger:
		c.Style = styleRead
		return c
	case "Exec":
		c.Style = styleWrite
	default:
		c.chooseLevel(r)
		c.chooseStyle(r)
	}
	c.chooseBounds(r)
	if c.Verb != "Exec" && c.Poll == 0 && r.IntN(30) == 0 {
		c.MaxHold = 2 * time.Second
	}
	return c
}

// randomSession chooses a call of sessionlock.
func randomSession(r *rand.Rand) call {
	c := call{Verb: pick(r, sessionVerbs), Via: viaSession}
	c.chooseKeys(r)
	c.Style = pick(r, []weighted[string]{{2, styleRead}, {1, styleFenced}, {1, styleLast}})
	switch {
	case c.slots():
		c.Style = styleOccupy
	case r.IntN(4) == 0:
		c.Shared, c.Style = true, styleRead
	}
	c.chooseBounds(r)
	return c
}

func (c *call) chooseKeys(r *rand.Rand) {
	switch {
	case c.slots():
		c.Keys = []int{firstSlots + r.IntN(slotKeys)}
	case strings.HasSuffix(c.Verb, "All"):
		one := r.IntN(registers)
		c.Keys = []int{one, (one + 1 + r.IntN(registers-1)) % registers}
	default:
		c.Keys = []int{r.IntN(registers)}
	}
}

func (c *call) chooseLevel(r *rand.Rand) {
	if c.own() || c.Verb == "WithTxOf" {
		return // at the higher levels they take no lock, and say so
	}
	c.Level = pick(r, []weighted[sql.IsolationLevel]{
		{3, sql.LevelDefault}, {2, sql.LevelReadCommitted}, {3, sql.LevelRepeatableRead}, {3, sql.LevelSerializable},
	})
	// With Plain, a pooler in transaction mode is not for the higher levels, nor are
	// slots.
	c.Plain = !c.Pgx && r.IntN(10) == 0 && (c.Level < sql.LevelRepeatableRead || c.Via != viaPooled && !c.slots())
}

func (c *call) chooseStyle(r *rand.Rand) {
	switch {
	case c.slots():
		c.Style = styleOccupy
	case r.IntN(4) == 0:
		c.Shared, c.Style = true, styleRead
	case c.own(): // a statement that fails frees a lock without the library's savepoint, as documented
		c.Style = pick(r, []weighted[string]{{10, styleWrite}, {1, styleError}})
	default:
		c.Style = pick(r, []weighted[string]{{20, styleWrite}, {2, styleFail}, {1, styleError}, {1, stylePanic}})
	}
}

func (c *call) chooseBounds(r *rand.Rand) {
	switch r.IntN(12) {
	case 0:
		c.Wait = time.Duration(1+r.IntN(50)) * time.Millisecond
	case 1: // one that polls has no place in a queue, and may be late for ever
		c.Poll, c.Wait = time.Duration(1+r.IntN(5))*time.Millisecond, time.Duration(20+r.IntN(200))*time.Millisecond
	case 2:
		c.Cancel = time.Duration(r.IntN(30_000)) * time.Microsecond
	}
}

func (c *call) slots() bool { return strings.HasSuffix(c.Verb, "Slot") }
func (c *call) own() bool   { return c.Verb == "Lock" || c.Verb == "TryLock" }
func (c *call) try() bool   { return strings.Contains(c.Verb, "Try") }

// name is the verb, and the package where that is pgxlock.
func (c *call) name() string {
	if c.Pgx {
		return "pgx " + c.Verb
	}
	return c.Verb
}

// session tells whether the lock is a session's.
func (c *call) session() bool { return strings.HasPrefix(c.Verb, "session ") }

// patient tells whether only starvation can keep the lock from the call.
func (c *call) patient() bool { return !c.try() && c.Wait == 0 && c.Cancel == 0 }

func (c *call) transactionOptions() xactlock.Options {
	return xactlock.Options{
		Shared: c.Shared, Wait: c.Wait, Poll: c.Poll, MaxHold: c.MaxHold, Isolation: c.Level, Plain: c.Plain,
		ReadOnly: c.Style == styleRead && c.Wait > 0,
	}
}

func (c *call) sessionOptions() sessionlock.Options {
	return sessionlock.Options{
		Shared: c.Shared, Wait: c.Wait, Poll: c.Poll, Shareable: c.Verb == "session Shareable",
	}
}

// String is the call in a history.
func (c *call) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s of %v, %s, %s", c.name(), c.Keys, c.Via, c.Style)
	if c.Level != sql.LevelDefault {
		fmt.Fprintf(&b, ", %v", c.Level)
	}
	for _, flag := range []struct {
		set  bool
		name string
	}{{c.Shared, "shared"}, {c.Plain, "plain"}} {
		if flag.set {
			b.WriteString(", " + flag.name)
		}
	}
	for _, bound := range []struct {
		name string
		d    time.Duration
	}{{"Wait", c.Wait}, {"Poll", c.Poll}, {"MaxHold", c.MaxHold}, {"cancelled after", c.Cancel}} {
		if bound.d > 0 {
			fmt.Fprintf(&b, ", %s %v", bound.name, bound.d)
		}
	}
	return b.String()
}

// weighted is one of several choices.
type weighted[T any] struct {
	weight int
	choice T
}

func pick[T any](r *rand.Rand, from []weighted[T]) T {
	sum := 0
	for _, w := range from {
		sum += w.weight
	}
	n := r.IntN(sum)
	for _, w := range from {
		if n -= w.weight; n < 0 {
			return w.choice
		}
	}
	panic("no choice")
}
