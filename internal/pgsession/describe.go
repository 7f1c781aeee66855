package pgsession

import (
	"context"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// prepare has the server parse a statement, under a name or under none, and say
// what parameters and columns it has.
func (s *Session) prepare(name, sql string) (*pgconn.StatementDescription, error) {
	s.pg.Frontend().SendParse(&pgproto3.Parse{Name: name, Query: sql})
	s.pg.Frontend().SendDescribe(&pgproto3.Describe{ObjectType: 'S', Name: name})
	d := &pgconn.StatementDescription{Name: name, SQL: sql}
	return d, s.converse("pD", func(message pgproto3.BackendMessage) byte {
		switch m := message.(type) {
		case *pgproto3.ParseComplete:
			return 'p'
		case *pgproto3.ParameterDescription:
			d.ParamOIDs = append(d.ParamOIDs, m.ParameterOIDs...)
		case *pgproto3.RowDescription:
			d.Fields = fields(m)
			return 'D'
		case *pgproto3.NoData:
			return 'D'
		}
		return 0
	})
}

// fields returns copies of the columns in m, which the next message overwrites.
func fields(m *pgproto3.RowDescription) []pgconn.FieldDescription {
	all := make([]pgconn.FieldDescription, len(m.Fields))
	for i, f := range m.Fields {
		all[i] = pgconn.FieldDescription{
			Name:                 string(f.Name),
			TableOID:             f.TableOID,
			TableAttributeNumber: f.TableAttributeNumber,
			DataTypeOID:          f.DataTypeOID,
			DataTypeSize:         f.DataTypeSize,
			TypeModifier:         f.TypeModifier,
			Format:               f.Format,
		}
	}
	return all
}

// deallocate drops a prepared statement.
func (s *Session) deallocate(name string) error {
	s.pg.Frontend().SendClose(&pgproto3.Close{ObjectType: 'S', Name: name})
	return s.converse("c", func(message pgproto3.BackendMessage) byte {
		if _, ok := message.(*pgproto3.CloseComplete); ok {
			return 'c'
		}
		return 0
	})
}

// converse sends what has been written, with a Sync, and reads the answer to its
// end: the steps, of each of which step returns what it is, or an error. Any
// other answer is not to this message.
func (s *Session) converse(steps string, step func(pgproto3.BackendMessage) byte) (err error) {
	s.pg.Frontend().SendSync(&s.out.sync)
	if err := s.flush(); err != nil {
		return err
	}
	for {
		message, lost := s.pg.ReceiveMessage(context.Background())
		if lost != nil {
			return s.lost(err, lost)
		}
		switch m := message.(type) {
		case *pgproto3.ErrorResponse:
			if err == nil {
				err = pgconn.ErrorResponseToPgError(m)
			}
			continue
		case *pgproto3.ReadyForQuery:
			if err == nil && steps != "" {
				return s.outOfStep("its end")
			}
			return err
		case *pgproto3.DataRow, *pgproto3.CommandComplete, *pgproto3.EmptyQueryResponse:
			return s.outOfStep("the result of a statement")
		}
		if done := step(message); done != 0 {
			if steps == "" || steps[0] != done {
				return s.outOfStep("another answer")
			}
			steps = steps[1:]
		}
	}
}
