package main

import "github.com/pgadvisory/pgadvisory/hashkey"

// What is locked, by number. Few of each, so that there is always another one
// that wants it.
const (
	registers  = 4  // 0 to 3: a resource in the database, for all verbs but those of slots and leaders
	firstSlots = 10 // a resource that slotsOf holders may have at once
	slotKeys   = 2
	firstLead  = 20 // what leaders lead
	leadKeys   = 2
	firstIdle  = 100 // and the number of a worker's place: held for long, and by nothing else
)

// slotsOf is how many holders a key of slots has.
const slotsOf = 2

var namespace = hashkey.Namespace("faults")

// keyOf is the key of a number. One is of PostgreSQL's other key space.
func keyOf(number int) hashkey.Key {
	if number == registers-1 {
		return hashkey.Pair(7, int32(number))
	}
	return namespace.ID(int64(number))
}

func keysOf(numbers []int) []hashkey.Key {
	keys := make([]hashkey.Key, len(numbers))
	for i, n := range numbers {
		keys[i] = keyOf(n)
	}
	return keys
}
