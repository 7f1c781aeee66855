package main

import "slices"

// checkOverlap: while an exclusive lock of a key is held for sure, no other is;
// and of slots no more than there are.
func (h *history) checkOverlap(key int) {
	var inside []*record // held for sure when the one that is looked at began
	for _, r := range h.holders(key) {
		if r.heldUntil() < r.enter {
			continue // it is not known to have held the lock
		}
		inside = slices.DeleteFunc(inside, func(other *record) bool { return other.heldUntil() <= r.enter })
		if r.call.slots() {
			if len(inside) >= slotsOf {
				h.violated(key, r.id, r.enter, "has a slot while %d others do, which are %s", len(inside), ids(inside))
			}
		} else if rivals := rivals(r, inside); len(rivals) > 0 {
			h.violated(key, r.id, r.enter, "holds the lock together with %s", ids(rivals))
		}
		inside = append(inside, r)
	}
}

// rivals are those that r cannot share a lock with.
func rivals(r *record, inside []*record) []*record {
	var rivals []*record
	for _, other := range inside {
		if !r.call.Shared || !other.call.Shared {
			rivals = append(rivals, other)
		}
	}
	return rivals
}
