package xactlock

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
)

// This file gets the statement of an Exec ready on a connection of pgx, as the
// connection's QueryExecMode says.

// mostStatements is how many statements of Execs stay prepared on one
// connection, or described.
const mostStatements = 128

// prepareExec returns query and args as they are to be sent, or why they cannot
// be.
func (s *session) prepareExec(ctx context.Context, query string, args []any) (string, []any, error) {
	if len(args) > 0 {
		if rewriter, ok := args[0].(pgx.QueryRewriter); ok {
			var err error
			if query, args, err = rewriter.RewriteQuery(ctx, s.conn, query, args[1:]); err != nil {
				return "", nil, fmt.Errorf("rewrite query failed: %w", err)
			}
		}
	}
	p := s.prepared()
	switch p.mode {
	case pgx.QueryExecModeSimpleProtocol:
		return query, args, nil // pgx writes all of it into one text before it sends anything
	case pgx.QueryExecModeExec:
		return query, args, s.encode(nil, args)
	}
	known := p.described[query] != nil
	sd, err := s.describe(ctx, p, query)
	if err == nil {
		err = s.encode(sd, args)
	}
	if err != nil && known && !s.pg.IsClosed() { // perhaps a table has changed
		if err = s.forget(ctx, p, query); err != nil {
			return "", nil, err
		}
		return s.prepareExec(ctx, query, args)
	}
	return query, args, err
}

// encode reports whether args can be sent, where sd, if not nil, has their
// types.
func (s *session) encode(sd *pgconn.StatementDescription, args []any) error {
	var encoded pgx.ExtendedQueryBuilder
	return encoded.Build(s.conn.TypeMap(), sd, args)
}

// describe returns the types of query's parameters, which takes a message of
// its own where they are not known yet.
func (s *session) describe(ctx context.Context, p *prepared, query string) (*pgconn.StatementDescription, error) {
	if sd := p.described[query]; sd != nil {
		return sd, nil
	}
	var sd *pgconn.StatementDescription
	var err error
	if p.mode == pgx.QueryExecModeCacheStatement {
		sd, err = s.conn.Prepare(ctx, query, query) // SendBatch finds it by its text
	} else {
		sd, err = s.pg.Prepare(ctx, "", query, nil)
	}
	if err != nil {
		return nil, err
	}
	p.described[query] = sd
	for other := range p.described { // whichever comes first
		if len(p.described) > mostStatements && other != query {
			return sd, s.forget(ctx, p, other)
		}
	}
	return sd, nil
}

// forget forgets the statement of an Exec.
func (s *session) forget(ctx context.Context, p *prepared, query string) error {
	delete(p.described, query)
	return s.conn.Deallocate(ctx, query)
}

// forgetStale forgets all that is prepared on s if err says that it may not be
// what it was: somebody has deallocated it, or changed a table.
func (s *session) forgetStale(ctx context.Context, err error) {
	if s.pg.IsClosed() || !mayBeStale(lockerr.SQLState(err)) {
		return
	}
	s.watch.Begin(ctx, s.pg, ending)
	defer s.watch.End()
	if err := s.conn.DeallocateAll(context.WithoutCancel(ctx)); err != nil {
		s.close()
		return
	}
	p := s.prepared()
	clear(p.names)
	clear(p.described)
}

// mayBeStale reports whether a prepared statement that failed with the SQLSTATE
// may succeed once it is prepared anew. Those that most often fail, for what is
// in the tables, are not among them: class 23, of constraints, first of all.
func mayBeStale(code string) bool {
	if len(code) < 2 {
		return false
	}
	switch code[:2] {
	case "26", // invalid SQL statement name: it was deallocated
		"0A", // feature not supported: "cached plan must not change result type"
		"22", // data exception: a value that is not of the type that the parameter had
		"42": // syntax error or access rule violation: types that do not fit any more
		return true
	}
	return false
}
