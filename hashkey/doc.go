// Package hashkey maps names to PostgreSQL advisory lock keys.
//
// PostgreSQL locks numbers: one bigint, or a pair of integers in a second key
// space that never conflicts with the first. People name things. A [Key]
// carries both, so that the server gets the number and an error message, a log
// or JSON shows the name.
//
// # The algorithm is a promise
//
// Processes exclude each other only if they compute the same number from the
// same name, in every release and in every language, so this never changes:
//
//	Name(name)          = int64(xxHash64(name, seed 0))
//	Namespace(ns).Name  = int64(xxHash64(name, seed xxHash64(ns, seed 0)))
//	Namespace(ns).ID(n) = Namespace(ns).Name(n in decimal)
//
// The input is the bytes of the string as they are: no Unicode normalization,
// no change of case, no terminator. The 64 bits of the hash are taken as a
// two's complement bigint. The empty name is a name like any other.
//
//	Name("some-lock-name") = 8131770842228927322
//	Name("a")              = -3292477735350538661
//	Name("")               = -1205034819632174695
//
// # No key is invalid
//
// The zero Key and Name("") are locks like any other, and no call refuses them.
// All callers that left the number or the name out share that one lock. A program
// for which an empty name is a mistake has to check it.
//
// # Collisions
//
// Two names that hash to one number wait for each other: they lose
// concurrency, never exclusion. With 64 bits the odds that any two among n
// names in use collide are about n²/2⁶⁵:
//
//	names        odds of any collision
//	1,000        1 in 37 trillion
//	1,000,000    1 in 37 million
//	100,000,000  1 in 3,700
//
// With a 32-bit hash, as many helpers use, 1,000,000 names are certain to
// collide, and 10,000 do so 1 time in 86.
//
// xxHash is not a cryptographic hash: a user that chooses names freely can
// find two that collide, and so make one wait for the other. Where that
// matters, hash names with a keyed hash first, or use [Int64] with numbers of
// your own.
package hashkey
