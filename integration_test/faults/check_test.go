package main

import (
	"strings"
	"testing"
)

// op is an operation of key 1 that entered and was proved to hold at these times.
func op(id int64, enter, proved int64, change ...func(*record)) *record {
	r := &record{
		id: id, call: &call{Verb: "WithTx", Keys: []int{1}, Style: styleRead},
		begin: enter - 1, enter: enter, proved: proved, leave: proved + 1, end: proved + 2, outcome: rolledBack,
	}
	for _, c := range change {
		c(r)
	}
	return r
}

func shared(r *record) { r.call.Shared = true }

func ended(outcome string) func(*record) { return func(r *record) { r.outcome = outcome } }

func writer(r *record) { r.call.Style, r.outcome = styleWrite, committed }

func withToken(token uint64) func(*record) { return func(r *record) { r.token = token } }

func ofSlot(r *record) { r.call.Verb, r.call.Keys = "WithSlot", []int{firstSlots} }

func reading(at ...int64) func(*record) { // pairs of a time and what was read
	return func(r *record) {
		for i := 0; i < len(at); i += 2 {
			r.reads = append(r.reads, event{At: at[i], Key: 1, N: at[i+1]})
		}
	}
}

func refusedAt(at int64) func(*record) {
	return func(r *record) { r.refused = append(r.refused, event{At: at, Key: 1}) }
}

// chain are rows of key 1 by the operations, with tokens that grow.
func chain(ops ...int64) []row {
	var rows []row
	for i, op := range ops {
		rows = append(rows, row{n: int64(i + 1), op: op, token: uint64(100 + i)})
	}
	return rows
}

// Each case is a history of one key; want is a part of its one violation, and ""
// where all is well.
func TestCheck(t *testing.T) {
	for name, test := range map[string]struct {
		ops   []*record
		chain []row
		want  string
	}{
		"one after the other":           {[]*record{op(1, 10, 20), op(2, 20, 30)}, nil, ""},
		"overlap":                       {[]*record{op(1, 10, 20), op(2, 19, 30)}, nil, "holds the lock together with 1"},
		"overlap with what is unproved": {[]*record{op(1, 10, 0, ended(lost)), op(2, 11, 30)}, nil, ""},
		"held until its callback ends":  {[]*record{op(1, 10, 20, ended(committed)), op(2, 20, 30)}, nil, "holds the lock together with 1"},
		"readers share":                 {[]*record{op(1, 10, 20, shared), op(2, 15, 30, shared)}, nil, ""},
		"a writer among readers":        {[]*record{op(1, 10, 20, shared), op(2, 15, 30)}, nil, "holds the lock together with 1"},
		"two slots":                     {[]*record{op(1, 10, 20, ofSlot), op(2, 11, 21, ofSlot)}, nil, ""},
		"three slots":                   {[]*record{op(1, 10, 20, ofSlot), op(2, 11, 21, ofSlot), op(3, 12, 22, ofSlot)}, nil, "has a slot while 2 others do"},
		"tokens grow":                   {[]*record{op(1, 10, 20, withToken(5), ended(committed)), op(2, 21, 30, withToken(6))}, nil, ""},
		"tokens repeat":                 {[]*record{op(1, 10, 20, withToken(5), ended(committed)), op(2, 21, 30, withToken(5))}, nil, "its token is 5, after 5"},
		"a token that was forgotten":    {[]*record{op(1, 10, 20, withToken(5), ended(lost)), op(2, 20, 30, withToken(5))}, nil, ""},
		"written":                       {[]*record{op(1, 10, 20, writer)}, chain(1), ""},
		"not written":                   {[]*record{op(1, 10, 20, writer)}, nil, "reported as committed, and not there"},
		"written in spite of an error":  {[]*record{op(1, 10, 20, writer, ended(lost))}, chain(1), "reported as lost, and there"},
		"unknown, there":                {[]*record{op(1, 10, 20, writer, ended(unknown))}, chain(1), ""},
		"unknown, not there":            {[]*record{op(1, 10, 20, writer, ended(unknown))}, nil, ""},
		"written twice":                 {[]*record{op(1, 10, 20, writer)}, chain(1, 1), "written 2 times"},
		"a row of nothing":              {nil, chain(9), "of an operation that never began"},
		"counted alike": {
			[]*record{op(1, 10, 20, writer), op(2, 30, 40, writer)},
			[]row{{1, 1, 100}, {1, 2, 101}}, "one of them is lost",
		},
		"a row is gone": {
			[]*record{op(1, 10, 20, writer), op(2, 30, 40, writer)},
			[]row{{1, 1, 100}, {3, 2, 101}}, "counted to 3 after 1",
		},
		"the token of a later row":   {[]*record{op(1, 10, 20, writer), op(2, 30, 40, writer)}, []row{{1, 1, 100}, {2, 2, 99}}, "its token is 99"},
		"committed in another order": {[]*record{op(1, 30, 40, writer), op(2, 10, 20, writer)}, chain(1, 2), "began before operation 1"},
		"reads what is there":        {[]*record{op(1, 10, 20, writer), op(2, 30, 40, reading(31, 1, 32, 1))}, chain(1), ""},
		"reads two things":           {[]*record{op(1, 10, 20, reading(11, 0, 12, 1))}, nil, "read 0 and then 1"},
		"reads after the lock":       {[]*record{op(1, 10, 20, reading(11, 0, 25, 1))}, nil, ""},
		"reads what was":             {[]*record{op(1, 10, 20, writer), op(2, 30, 40, reading(31, 0))}, chain(1), "read 0, though operation 1"},
		"refused with the lock":      {[]*record{op(1, 10, 20, refusedAt(15))}, nil, "its write was refused"},
		"refused after a loss":       {[]*record{op(1, 10, 20, refusedAt(25), ended(lost))}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := &history{ops: make(map[int64]*record), complete: true}
			for _, r := range test.ops {
				h.ops[r.id] = r
			}
			h.chains[1] = test.chain
			if last := len(test.chain); last > 0 {
				h.registers[1] = [2]int64{test.chain[last-1].n, test.chain[last-1].n}
			}
			h.check(1)
			var texts []string
			for _, v := range h.violations {
				texts = append(texts, v.text)
			}
			got := strings.Join(texts, "; ")
			if test.want == "" && got != "" || !strings.Contains(got, test.want) || len(texts) > 1 {
				t.Errorf("violations are %q, want %q", texts, test.want)
			}
		})
	}
}

// A holder has to be told that its session was ended, in the time in which its
// process ran.
func TestCheckTold(t *testing.T) {
	const second = 1e9
	for name, test := range map[string]struct {
		told, leave int64
		stall       event
		violated    bool
	}{
		"told":                        {3 * second, 3 * second, event{}, false},
		"told late":                   {9 * second, 9 * second, event{}, true},
		"not told":                    {0, 12 * second, event{}, true},
		"left before":                 {0, 4 * second, event{}, false},
		"its process was stopped":     {9 * second, 9 * second, event{At: 2 * second, Until: 7 * second}, false},
		"its process ran soon enough": {9 * second, 9 * second, event{At: 0, Until: 2 * second}, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := &history{
				ops: map[int64]*record{1: {
					id: 1, call: &call{Style: styleIdle, Keys: []int{firstIdle}}, enter: 1, sessionAt: 1, pid: 7, told: test.told, leave: test.leave,
				}},
				ended:  []event{{At: second, PID: 7}},
				stalls: map[int][]event{0: {test.stall}},
			}
			h.checkTold()
			if violated := len(h.violations) > 0; violated != test.violated {
				t.Errorf("violations are %+v, want some: %t", h.violations, test.violated)
			}
		})
	}
}
