package xactlock

import (
	"context"
	"errors"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
)

// This file is messages on the wire. They go through pgconn's Frontend, because
// its Exec has no parameters and its pipelines prepare nothing on the way.

// outgoing is room for what is being written on a connection.
type outgoing struct {
	query   pgproto3.Query
	parse   pgproto3.Parse
	bind    pgproto3.Bind
	execute pgproto3.Execute
	sync    pgproto3.Sync
	digits  [24]byte
	values  [2][]byte
}

// key returns key as parameters.
func (o *outgoing) key(key hashkey.Key) [][]byte {
	class, object, pair := key.Pair()
	if !pair {
		o.values[0] = strconv.AppendInt(o.digits[:0], key.Int64(), 10)
		return o.values[:1]
	}
	o.values[0] = strconv.AppendInt(o.digits[:0], int64(class), 10)
	o.values[1] = strconv.AppendInt(o.digits[len(o.values[0]):][:0], int64(object), 10)
	return o.values[:2]
}

// answer is what a message brought back.
type answer struct {
	granted   bool // every boolean in it is true
	committed bool // a COMMIT in it succeeded, whatever came after
}

// send sends a message without parameters and reads the answer.
func (s *session) send(ctx context.Context, p interrupt.Patience, message string) (answer, error) {
	s.watch.Begin(ctx, s.pg, p)
	defer s.watch.End()
	s.query(message)
	return s.exchange()
}

// sendBoth sends two messages in one write, and returns the answer to the first
// when both are answered.
func (s *session) sendBoth(ctx context.Context, p interrupt.Patience, message, after string) (answer, error) {
	s.watch.Begin(ctx, s.pg, p)
	defer s.watch.End()
	s.query(message)
	s.query(after)
	a, err := s.exchange()
	if s.pg.IsClosed() {
		s.stray = true
		return a, err
	}
	_, afterErr := s.read()
	s.stray = afterErr != nil
	return a, err
}

func (s *session) query(message string) {
	out := &s.prepared().out
	out.query.String = message
	s.pg.Frontend().SendQuery(&out.query)
}

// exchange sends what has been written and reads the answer to the first
// message of it.
func (s *session) exchange() (answer, error) {
	if s.pg.IsClosed() {
		return answer{}, errConnLost
	}
	if err := s.pg.Frontend().Flush(); err != nil {
		s.close()
		return answer{}, err
	}
	return s.read()
}

// read reads the answer to one message, to its end. If the connection breaks
// off, it is closed.
func (s *session) read() (a answer, err error) {
	a.granted = true
	var fields []pgproto3.FieldDescription
	for {
		message, lost := s.pg.ReceiveMessage(context.Background())
		if lost != nil {
			s.close()
			if err == nil {
				err = &noAnswer{lost}
			}
			return a, err
		}
		switch m := message.(type) {
		case *pgproto3.RowDescription:
			fields = m.Fields
		case *pgproto3.DataRow:
			a.granted = a.granted && allTrue(fields, m.Values)
		case *pgproto3.CommandComplete:
			fields = nil
			a.committed = a.committed || string(m.CommandTag) == "COMMIT"
		case *pgproto3.ErrorResponse:
			if err == nil {
				err = pgconn.ErrorResponseToPgError(m)
			}
		case *pgproto3.ReadyForQuery:
			return a, err
		}
	}
}

// allTrue reports whether every boolean of a row is true. Rows of which the
// server was not asked for a description are booleans.
func allTrue(fields []pgproto3.FieldDescription, values [][]byte) bool {
	const boolOID = 16
	for i, value := range values {
		if (fields == nil || fields[i].DataTypeOID == boolOID) && string(value) != "t" {
			return false
		}
	}
	return true
}

var errConnLost = errors.New("xactlock: the connection is closed")

// noAnswer is the end of a connection on which an answer was due. pgx says of
// every failed read that it is safe to retry, which it is not.
type noAnswer struct{ err error }

func (e *noAnswer) Error() string     { return e.err.Error() }
func (e *noAnswer) Unwrap() error     { return e.err }
func (e *noAnswer) SafeToRetry() bool { return false }
