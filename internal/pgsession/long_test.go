package pgsession_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/pgfake"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
)

// zeros is a parameter of so many bytes. They take no memory, as nothing writes them.
type zeros int

type zerosCodec struct {
	pgtype.TextCodec
	bytes []byte
}

func (c zerosCodec) PlanEncode(*pgtype.Map, uint32, int16, any) pgtype.EncodePlan { return c }

func (c zerosCodec) Encode(value any, _ []byte) ([]byte, error) { return c.bytes[:value.(zeros)], nil }

// Parameters of 1 GB are the statement's fault, and not that of the session, which
// goes on.
func TestExecOfLongParameters(t *testing.T) {
	const long = 1 << 30
	asked := false
	conn := pgfake.Connect(t, func(pgproto3.FrontendMessage) []pgproto3.BackendMessage {
		asked = true
		return []pgproto3.BackendMessage{done("INSERT 0 1"), done("COMMIT"), ready('I')}
	})
	conn.TypeMap().RegisterType(&pgtype.Type{Name: "zeros", OID: 1 << 20, Codec: zerosCodec{bytes: make([]byte, long)}})
	conn.TypeMap().RegisterDefaultPgType(zeros(0), "zeros")
	s := pgsession.Of(conn)
	exec := func(n zeros) (sent bool, err error) {
		q := pgsession.Query{SQL: "insert into t values ($1)", Args: []any{pgx.QueryExecModeExec, n}}
		_, _, sent, err = s.Exec(t.Context(), t.Context(), interrupt.Policy{}, locksql.Message{}, q, locksql.One(locksql.Statement{SQL: "commit", Tag: "COMMIT"}))
		return sent, err
	}
	if sent, err := exec(long); err == nil || sent || asked || s.Closed() {
		t.Errorf("got %v, sent %t, closed %t", err, sent, s.Closed())
	}
	if sent, err := exec(10); err != nil || !sent {
		t.Errorf("the next one: %v, sent %t", err, sent)
	}
}
