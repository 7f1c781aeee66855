// Package pgxlock runs a function while a PostgreSQL advisory lock is held, in
// the pgx transaction that holds it.
//
//	locker := pgxlock.New(pool)
//	orders := hashkey.Namespace("orders")
//
//	err := locker.WithTx(ctx, orders.ID(id), func(ctx context.Context, tx pgx.Tx) error {
//		_, err := tx.Exec(ctx, `update orders set state = 'paid' where id = $1`, id)
//		return err
//	})
//
// It is [github.com/pgadvisory/pgadvisory/xactlock] for programs that use pgx and
// its pgxpool without database/sql: the same contract, the same options and
// errors, and the same two messages for an uncontended call. A program may use
// both at once; they exclude each other.
//
// Every process must compute the same key from the same name: see
// [github.com/pgadvisory/pgadvisory/hashkey].
//
// # The transaction
//
// fn gets a pgx.Tx, with all that pgx's own has: CopyFrom, SendBatch, nested
// transactions, large objects, prepared statements. Three things are different:
//
//   - Commit and Rollback are refused or noted, and the call returns
//     [ErrTxEnded]. In a nested transaction they do what they do in pgx.
//   - A statement is cancelled on the server when its ctx ends. pgx would close the
//     connection, and free the lock while fn runs.
//   - What fn leaves open, rows or a batch, is closed when fn returns, without the
//     batch's callbacks, and the transaction is of no use after it. A nested
//     transaction that fn has not ended is committed with fn's, or rolled back with
//     it, as in pgx.
//
// Statements on the connection, tx.Conn, are pgx's own: when the ctx of one ends,
// pgx closes the connection, and the call returns [ErrLost]. In a pool with a config
// that has gone through CancelStatements of package sessionlock they are cancelled,
// too.
//
// # Tracing
//
// A tracer in the pool's ConnConfig sees the statements of fn. It sees the
// messages that open and end the transaction as queries of their own, under the
// ctx of the call: each wait for the lock is one, half a second long at most. An
// Exec in one message is one query, which is the caller's statement.
package pgxlock
