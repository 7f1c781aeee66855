// Package inspect tells which sessions hold an advisory lock, and which wait for it.
//
//	locks, err := inspect.Of(ctx, db, hashkey.Name("nightly-report"))
//
// It reads pg_locks and pg_stat_activity, takes no lock and needs no privilege.
// A role without pg_monitor (or pg_read_all_stats) does not see Client, State, Query
// and Since of other roles' sessions: they are empty, as the manual's section on
// Viewing Statistics says.
//
// What it returns is a picture of a moment ago. Never decide by it whether a
// lock is free: try to take it.
package inspect
