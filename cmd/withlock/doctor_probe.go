package main

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgadvisory/pgadvisory/internal/pgsession"
)

// A probe is one connection of a doctor.
type probe struct {
	taken *sql.Conn
	conn  *pgx.Conn // below taken
	also  io.Closer // is closed with it
}

func newProbe(ctx context.Context, db *sql.DB) (*probe, error) {
	ctx, cancel := toAnswer(ctx)
	defer cancel()
	taken, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	p := &probe{taken: taken}
	err = taken.Raw(func(driverConn any) error {
		p.conn = driverConn.(*stdlib.Conn).Conn()
		return nil
	})
	return p, err
}

// close gives the connection back. Once is enough, more do no harm.
func (p *probe) close() {
	_ = p.taken.Close() // nothing follows from an error
	if p.also != nil {
		_ = p.also.Close()
	}
}

// ask sends one text and returns the rows of the last statement. NULL is "".
func (p *probe) ask(ctx context.Context, query string) ([][]string, error) {
	ctx, cancel := toAnswer(ctx)
	defer cancel()
	results, err := p.conn.PgConn().Exec(ctx, query).ReadAll()
	if err != nil || len(results) == 0 {
		return nil, cause(ctx, err)
	}
	var rows [][]string
	for _, values := range results[len(results)-1].Rows {
		row := make([]string, len(values))
		for i, value := range values {
			row[i] = string(value)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// value returns the first value of the answer.
func (p *probe) value(ctx context.Context, query string) (string, error) {
	rows, err := p.ask(ctx, query)
	if err != nil || len(rows) == 0 || len(rows[0]) == 0 {
		return "", err
	}
	return rows[0][0], nil
}

// isTrue reports whether the first value of the answer is true.
func (p *probe) isTrue(ctx context.Context, query string) (bool, error) {
	value, err := p.value(ctx, query)
	return value == "t" || value == "true", err
}

// backend returns the process on the server that answers.
func (p *probe) backend(ctx context.Context) (string, error) {
	return p.value(ctx, "select pg_catalog.pg_backend_pid()")
}

// tell sends a text whose answer says nothing.
func (p *probe) tell(ctx context.Context, query string) error {
	_, err := p.ask(ctx, query)
	return err
}

// rollback ends the transaction, if there is one.
func (p *probe) rollback(ctx context.Context) error {
	if p.conn.PgConn().IsClosed() || p.conn.PgConn().TxStatus() == 'I' {
		return nil
	}
	return p.tell(ctx, "rollback")
}

// median returns the median time of some round trips.
func (p *probe) median(ctx context.Context) (time.Duration, error) {
	const rounds = 5
	var times []time.Duration
	for range rounds {
		began := time.Now()
		if err := p.tell(ctx, "select 1"); err != nil {
			return 0, err
		}
		times = append(times, time.Since(began))
	}
	return middle(times), nil
}

// cause names what has ended ctx, where that is why err is there.
func cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// refusal returns the server's words where err is its answer to a statement, and
// otherwise err: the connection is of no use any more.
func refusal(err error) (words string, _ error) {
	var answer *pgconn.PgError
	if errors.As(err, &answer) && pgsession.GoesOn(err) {
		return answer.Message, nil
	}
	return "", err
}
