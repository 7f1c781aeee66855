package main

import (
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/inspect"
)

// node is a lock in the order in which it is shown, and how deep below the locks
// that it waits for.
type node struct {
	inspect.Lock
	depth int
}

// tree orders locks, which come in the order of inspect.Locks, so that what
// waits for a lock stands below its holders, and one level deeper. What such a
// waiter holds stands below the waiter, with the waiters for that.
func tree(locks []inspect.Lock) []node {
	f := &forest{keys: map[string][]inspect.Lock{}, held: map[int32][]string{}, done: map[string]bool{}}
	waits := map[int32]bool{}
	var order []string
	for _, lock := range locks {
		id := keyNumber(lock.Key)
		if f.keys[id] == nil {
			order = append(order, id)
		}
		f.keys[id] = append(f.keys[id], lock)
		if lock.Granted {
			f.held[lock.PID] = append(f.held[lock.PID], id)
		} else {
			waits[lock.PID] = true
		}
	}
	for _, id := range order { // first what a session holds that waits for nothing
		for _, lock := range f.keys[id] {
			if lock.Granted && !waits[lock.PID] {
				f.add(id, 0)
				break
			}
		}
	}
	for _, id := range order { // and then what is in a circle
		f.add(id, 0)
	}
	return f.nodes
}

// forest is a tree that grows.
type forest struct {
	keys  map[string][]inspect.Lock
	held  map[int32][]string // the keys that a session holds
	done  map[string]bool
	nodes []node
}

// add adds all that hold a key or wait for it, and what waits for these.
func (f *forest) add(id string, depth int) {
	if f.done[id] {
		return
	}
	f.done[id] = true
	for _, lock := range f.keys[id] {
		if lock.Granted {
			f.nodes = append(f.nodes, node{lock, depth})
		}
	}
	for _, lock := range f.keys[id] {
		if lock.Granted {
			continue
		}
		f.nodes = append(f.nodes, node{lock, depth + 1})
		for _, held := range f.held[lock.PID] {
			f.add(held, depth+2)
		}
	}
}

// known returns locks with the names that their holders or waiters tell.
func known(locks []inspect.Lock) []inspect.Lock {
	names := map[string]hashkey.Key{}
	for _, lock := range locks {
		if named := nameOf(lock.Key, lock.Application); named != lock.Key {
			names[keyNumber(lock.Key)] = named
		}
	}
	for i, lock := range locks {
		if named, ok := names[keyNumber(lock.Key)]; ok {
			locks[i].Key = named
		}
	}
	return locks
}
