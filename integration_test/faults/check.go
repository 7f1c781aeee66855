package main

import (
	"cmp"
	"slices"
	"time"
)

// allKeys are all numbers of keys, in a crew of so many workers.
func allKeys(workers int) []int {
	var keys []int
	for _, some := range []struct{ first, n int }{
		{0, registers}, {firstSlots, slotKeys}, {firstLead, leadKeys}, {firstIdle, workers},
	} {
		for i := range some.n {
			keys = append(keys, some.first+i)
		}
	}
	return keys
}

// check adds all violations that the history shows.
func (h *history) check(workers int) {
	h.checkRows()
	for key := range registers {
		h.checkChain(key)
		h.checkOrder(key)
		h.checkReads(key)
	}
	for _, key := range allKeys(workers) {
		h.checkOverlap(key)
		h.checkTokens(key)
	}
	h.checkFences()
	h.checkTold()
	slices.SortStableFunc(h.violations, func(a, b violation) int { return cmp.Compare(a.at, b.at) })
}

// checkRows: what was acknowledged is there, once, for all keys of the call.
// What was reported as not committed is not there. What is unknown is there as a
// whole or not at all.
func (h *history) checkRows() {
	found := make(map[int64]map[int]int) // rows by operation and key
	for key, chain := range h.chains {
		for _, row := range chain {
			if found[row.op] == nil {
				found[row.op] = make(map[int]int)
			}
			found[row.op][key]++
			if r := h.ops[row.op]; h.complete && (r == nil || r.begin == 0) {
				h.violated(key, row.op, 0, "the row %d is of an operation that never began", row.n)
			}
		}
	}
	for id, r := range h.ops {
		if r.call == nil || !r.call.writes() {
			continue
		}
		for _, key := range r.call.Keys {
			n, first := found[id][key], found[id][r.call.Keys[0]]
			switch {
			case n > 1:
				h.violated(key, id, r.end, "written %d times", n)
			case r.outcome == committed && n == 0:
				h.violated(key, id, r.end, "reported as committed, and not there")
			case r.outcome != committed && r.outcome != unknown && r.outcome != "" && n > 0:
				h.violated(key, id, r.end, "reported as %s, and there: %s", r.outcome, r.text)
			case n != first:
				h.violated(key, id, r.end, "a part of the transaction is there")
			}
		}
	}
}

// writes tells whether a call that commits leaves a row in a chain.
func (c *call) writes() bool { return c.Style == styleWrite && c.Verb != verbStranger }

// checkChain: the writers of a key, one after the other, each counted from what
// the one before wrote, and have growing tokens.
func (h *history) checkChain(key int) {
	var last row
	for _, row := range h.chains[key] {
		switch {
		case row.n == last.n:
			h.violated(key, row.op, h.enterOf(row.op), "counted to %d, as operation %d did: one of them is lost", row.n, last.op)
		case row.n != last.n+1:
			h.violated(key, row.op, h.enterOf(row.op), "counted to %d after %d", row.n, last.n)
		}
		if row.token <= last.token {
			h.violated(key, row.op, h.enterOf(row.op), "its token is %d, after %d of operation %d", row.token, last.token, last.op)
		}
		last = row
	}
	if r := h.registers[key]; r[0] != last.n || r[1] != last.n {
		h.violated(key, last.op, 0, "the register has %d and %d, and the chain ends at %d", r[0], r[1], last.n)
	}
}

func (h *history) enterOf(op int64) int64 {
	if r := h.ops[op]; r != nil {
		return cmp.Or(r.enter, r.begin)
	}
	return 0
}

// checkOrder: the order of the chain is that in which the callbacks ran.
func (h *history) checkOrder(key int) {
	var last *record
	for _, row := range h.chains[key] {
		r := h.ops[row.op]
		if r == nil || r.enter == 0 {
			continue
		}
		if last != nil && r.enter < last.enter {
			h.violated(key, row.op, r.enter, "began before operation %d, and committed after it", last.id)
		}
		last = r
	}
}

// checkReads: a holder reads the same all the time, and what the last writer
// before it wrote.
func (h *history) checkReads(key int) {
	writers := make(map[int64]*record)
	for _, row := range h.chains[key] {
		if r := h.ops[row.op]; r != nil {
			writers[row.n] = r
		}
	}
	for _, r := range h.holders(key) {
		var first *event
		for _, e := range r.reads {
			if e.Key != key || e.At > r.heldUntil() {
				continue
			}
			if first != nil && e.N != first.N {
				h.violated(key, r.id, r.enter, "read %d and then %d under the lock", first.N, e.N)
			}
			first = &e
		}
		if first != nil {
			h.checkFresh(key, r, first.N, writers[first.N], writers[first.N+1])
		}
	}
}

// checkFresh: the writer of what was read came before the reader, and the next
// writer after it.
func (h *history) checkFresh(key int, r *record, n int64, writer, next *record) {
	if writer != nil && cmp.Or(writer.enter, writer.begin) > r.heldUntil() {
		h.violated(key, r.id, r.enter, "read %d, which operation %d wrote later", n, writer.id)
	}
	switch {
	case next == nil:
	case next.enter != 0 && next.enter <= r.heldUntil():
		h.violated(key, r.id, r.enter, "read %d, though operation %d had the lock before, and wrote %d", n, next.id, n+1)
	case next.end != 0 && next.end < r.begin:
		h.violated(key, r.id, r.enter, "read %d, though operation %d had committed %d", n, next.id, n+1)
	}
}

// checkTokens: of the exclusive holders of a key, a later one has a larger token.
// A server that crashes forgets the id of a transaction that has not committed,
// and gives it to another one.
func (h *history) checkTokens(key int) {
	var last *record
	for _, r := range h.holders(key) {
		if r.token == 0 || r.call.Shared || r.call.slots() {
			continue
		}
		if last != nil && r.token <= last.token {
			h.violated(key, r.id, r.enter, "its token is %d, after %d of operation %d", r.token, last.token, last.id)
		}
		if r.call.session() || r.outcome == committed {
			last = r
		}
	}
}

// checkFences: a write with the token of a lock that is held is not refused.
func (h *history) checkFences() {
	for _, r := range h.ops {
		for _, e := range r.refused {
			if e.At <= r.heldUntil() {
				h.violated(e.Key, r.id, e.At, "its write was refused for a larger token than %d, and its lock was held", e.Token)
			}
		}
	}
}

// Within toldWithin of the end of its session a callback is told, which the
// library does within two seconds, or Check and two seconds; the rest is for a
// machine with much to do. Of what it did not run, nothing counts.
const toldWithin = 5 * time.Second

// checkTold: holders whose session was ended were told so.
func (h *history) checkTold() {
	for _, r := range h.ops {
		if r.call == nil || r.call.Style != styleIdle || r.pid == 0 {
			continue
		}
		for _, e := range h.ended {
			if e.PID != r.pid || e.At < r.sessionAt || r.leave != 0 && e.At > r.leave {
				continue
			}
			limit := e.At + int64(toldWithin)
			for _, stall := range h.stalls[r.worker()] {
				if stall.At < limit && stall.Until > e.At {
					limit += stall.Until - max(stall.At, e.At)
				}
			}
			if r.leave > limit && (r.told == 0 || r.told > limit) {
				h.violated(r.call.Keys[0], r.id, r.leave, "was not told within %v that its session was ended", toldWithin)
			}
		}
	}
}
