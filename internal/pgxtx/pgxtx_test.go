package pgxtx_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/pgfake"
	"github.com/pgadvisory/pgadvisory/internal/pgxtx"
)

// begin returns a transaction on a server that answers each text with a tag, and
// counts them.
func begin(t *testing.T, texts *atomic.Int32) *pgxtx.Tx {
	t.Helper()
	conn := pgfake.Connect(t, func(m pgproto3.FrontendMessage) []pgproto3.BackendMessage {
		q, ok := m.(*pgproto3.Query)
		if !ok {
			return nil
		}
		texts.Add(1)
		return []pgproto3.BackendMessage{pgfake.Done(q.String), pgfake.Ready('T')}
	})
	inTransaction(t, conn)
	texts.Store(0)
	return pgxtx.Begin(context.Background(), conn, interrupt.Policy{}, []hashkey.Key{hashkey.Name("k")})
}

// inTransaction has the server say that a transaction is open.
func inTransaction(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), "begin", pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
}

// Commit and Rollback of fn's own transaction send nothing, and nothing is sent
// after them.
func TestEndIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(pgx.Tx, context.Context) error
		by   lockerr.Ending
		want error
	}{"Commit": {pgx.Tx.Commit, lockerr.EndedByCommit, lockerr.ErrTxEnded}, "Rollback": {pgx.Tx.Rollback, lockerr.EndedByRollback, nil}} {
		t.Run(name, func(t *testing.T) {
			var texts atomic.Int32
			tx := begin(t, &texts)
			err, want := test.end(tx, t.Context()), lockerr.TxEnded([]hashkey.Key{hashkey.Name("k")}, test.by)
			if !errors.Is(err, test.want) || err != nil && err.Error() != want.Error() {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if ended := tx.Guard().Ended(); ended == nil || ended.Error() != want.Error() {
				t.Errorf("the call's error is %v, want %v", ended, want)
			}
			_, execErr := tx.Exec(t.Context(), "select")
			_, beginErr := tx.Begin(t.Context())
			if !errors.Is(execErr, lockerr.ErrTxEnded) || !errors.Is(beginErr, lockerr.ErrTxEnded) {
				t.Errorf("statements after it: %v, %v", execErr, beginErr)
			}
			if commit, rollback := tx.Commit(t.Context()), tx.Rollback(t.Context()); commit != pgx.ErrTxClosed || rollback != pgx.ErrTxClosed {
				t.Errorf("once more: %v, %v", commit, rollback)
			}
			if n := texts.Load(); n != 0 {
				t.Errorf("%d messages were sent", n)
			}
		})
	}
}

// Nested transactions are savepoints with names of their own.
func TestNested(t *testing.T) {
	var texts atomic.Int32
	tx := begin(t, &texts)
	one, err := tx.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	two, err := one.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{two.Rollback(t.Context()), one.Commit(t.Context())} {
		if err != nil {
			t.Error(err)
		}
	}
	for _, nested := range []pgx.Tx{one, two} {
		if commit, rollback := nested.Commit(t.Context()), nested.Rollback(t.Context()); commit != pgx.ErrTxClosed || rollback != pgx.ErrTxClosed {
			t.Errorf("once more: %v, %v", commit, rollback)
		}
	}
	if n := texts.Load(); n != 4 || tx.Guard().Ended() != nil {
		t.Errorf("%d messages, and %v", n, tx.Guard().Ended())
	}
	tx.Guard().End()
	if _, err := tx.Exec(t.Context(), "select"); err != pgx.ErrTxClosed {
		t.Errorf("after the call: %v", err)
	}
}

// Rows that End has closed before they were read to their end say so, and others do
// not.
func TestRowsAreCutOff(t *testing.T) {
	for name, read := range map[string]int{"left": 1, "read": 3} {
		conn := pgfake.Connect(t, func(pgproto3.FrontendMessage) []pgproto3.BackendMessage {
			return []pgproto3.BackendMessage{&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("n")}}},
				pgfake.Row("1"), pgfake.Row("2"), pgfake.Done("SELECT 2"), pgfake.Ready('T')}
		}, pgproto3.ParameterStatus{Name: "standard_conforming_strings", Value: "on"}, pgproto3.ParameterStatus{Name: "client_encoding", Value: "UTF8"})
		inTransaction(t, conn)
		tx := pgxtx.Begin(context.Background(), conn, interrupt.Policy{}, []hashkey.Key{hashkey.Name("k")})
		rows, err := tx.Query(t.Context(), "select", pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			t.Fatal(err)
		}
		for range read {
			_ = rows.Next()
		}
		tx.Guard().End()
		if rows.Next() || (rows.Err() != nil) != (name == "left") {
			t.Errorf("%s: the error of the rows is %v", name, rows.Err())
		}
	}
}

// The type of pgx's large objects is as this package knows it.
func TestLargeObjects(t *testing.T) {
	var texts atomic.Int32
	tx := begin(t, &texts)
	tx.Guard().End()
	objects := tx.LargeObjects()
	if _, err := objects.Create(t.Context(), 0); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("got %v, want what the transaction says", err)
	}
}
