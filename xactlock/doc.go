// Package xactlock runs a function while a PostgreSQL advisory lock is held,
// in the transaction that holds it.
//
//	locker := xactlock.New(db)
//	orders := hashkey.Namespace("orders")
//
//	err := locker.WithTx(ctx, orders.ID(id), func(ctx context.Context, tx *sql.Tx) error {
//		_, err := tx.ExecContext(ctx, `update orders set state = 'paid' where id = $1`, id)
//		return err
//	})
//
// Of all the processes that do this for one order, one at a time is inside the
// function. The lock is pg_advisory_xact_lock: it is held from before the
// function's first statement until its COMMIT or ROLLBACK, by the connection
// that carries both, so it cannot be left behind in the pool, and it works
// through PgBouncer in transaction mode. What the previous holder committed,
// the next one sees, at every isolation level.
//
// Every process must compute the same key from the same name: see
// [github.com/pgadvisory/pgadvisory/hashkey].
//
// The pool is any *sql.DB on PostgreSQL. With pgx (its stdlib package, over a
// pgxpool or not, wrapped or not as long as the wrapper has a method Raw or
// WrappedConn that returns a driver.Conn) BEGIN and the lock travel in one
// message, and two messages are all that an uncontended call costs. Other drivers take more, as
// does [Options].Plain.
//
// For pgx's own pool and transactions, without database/sql, there is
// [github.com/pgadvisory/pgadvisory/pgxlock].
//
// A test that looks for leaked goroutines with goleak finds one of this
// package, once it has been used: database/sql's connectionOpener, which every
// *sql.DB has, for the one database that this package keeps.
// A panic inside a statement of fn can leave another, in a method of
// database/sql that waits for a lock which the panic left taken.
package xactlock
