// Package sqlconn takes connections from a pool of database/sql.
package sqlconn

import (
	"context"
	"database/sql"
	"time"
)

// Pool is a *sql.DB, for callers who may wait for less long than it takes to
// connect.
type Pool struct {
	db    *sql.DB
	dials chan struct{} // holds a token while a connection is made that may outlive its caller
}

// New returns the Pool of db.
func New(db *sql.DB) *Pool { return &Pool{db: db, dials: make(chan struct{}, 1)} }

const (
	// enough is how long a caller must have for the connection to be made
	// under its own ctx.
	enough = 5 * time.Second
	// dialPatience bounds a dial that outlives its caller.
	dialPatience = 30 * time.Second
)

// Conn is db.Conn. But a connection that is made for a caller whose ctx ends
// soon is made to its end, for the next caller: else callers who have less time
// than a dial takes would never get one, and would keep the server busy. There is
// one such dial at a time.
func (p *Pool) Conn(ctx context.Context) (*sql.Conn, error) {
	deadline, ok := ctx.Deadline()
	if !ok || time.Until(deadline) > enough || !p.dialsNext() {
		return p.db.Conn(ctx)
	}
	select {
	case p.dials <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if !p.dialsNext() { // it has been done meanwhile
		<-p.dials
		return p.db.Conn(ctx)
	}
	type result struct {
		conn *sql.Conn
		err  error
	}
	made := make(chan result)
	go func() {
		defer func() { <-p.dials }()
		patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialPatience)
		defer cancel()
		conn, err := p.db.Conn(patient)
		select {
		case made <- result{conn, err}:
		case <-ctx.Done():
			if err == nil {
				_ = conn.Close() // into the pool
			}
		}
	}()
	select {
	case r := <-made:
		return r.conn, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// dialsNext reports whether the next caller will have to make a connection.
func (p *Pool) dialsNext() bool {
	s := p.db.Stats()
	return s.Idle == 0 && (s.MaxOpenConnections == 0 || s.OpenConnections < s.MaxOpenConnections)
}

// Open returns how many connections the pool has.
func (p *Pool) Open() int { return p.db.Stats().OpenConnections }
