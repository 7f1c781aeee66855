// Package interop computes the advisory lock keys of other libraries and
// languages, so that a Go program and one of theirs exclude each other.
//
// Each function returns the key that the other side locks for a name. The key
// carries the name, so that messages show it. Numbers that the other side
// takes from its caller need no function: a bigint is [hashkey.Int64], two
// integers are [hashkey.Pair].
//
// Nothing here is better than [hashkey.Name]; most of it is worse, as 32 bits
// collide soon. It is for locks that another system takes too, and for moving
// away from them: hold both keys until every process does, then only the new
// one. See docs/keys.md.
//
// # Names
//
// Names are taken to be UTF-8, as most of these systems convert to it before
// they hash. What is not valid UTF-8 cannot be a name in most of them, so its
// key here is no lock over there.
package interop
