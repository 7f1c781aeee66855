// Package sqlconn takes connections from a pool of database/sql.
package sqlconn

import (
	"context"
	"database/sql"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Pool is a *sql.DB, for callers that may have less time than it takes to connect.
type Pool struct {
	db      *sql.DB
	slow    atomic.Bool   // the last dial took longer than its caller had
	dials   chan struct{} // holds a token while a connection is made, where dials are slow
	entered atomic.Int64  // callers that are in db.Conn under their own ctx
}

// New returns the Pool of db.
func New(db *sql.DB) *Pool { return &Pool{db: db, dials: make(chan struct{}, 1)} }

const (
	// enough is how long a caller must have for the connection to be made, or
	// tried, under its own ctx.
	enough = 5 * time.Second
	// dialPatience bounds a dial that outlives its caller.
	dialPatience = 30 * time.Second
	// dialAlone is how long such a dial is the only one: one that takes longer may
	// hang where the next does not.
	dialAlone = time.Second
	// pingPatience is how long a connection that was idle may be tried once its
	// caller's ctx has ended.
	pingPatience = time.Second
)

// Conn is db.Conn. But where the caller's ctx ends soon, the connection is made
// to its end, for the next caller: else callers with less time than a dial takes
// would never get one, and would keep the server busy. Once that was so, there is
// one such dial at a time, and one more for each second that it lasts, until one is in
// time. And an idle connection is not closed because ctx ends while the driver tries
// whether it is alive.
func (p *Pool) Conn(ctx context.Context) (*sql.Conn, error) {
	deadline, ok := ctx.Deadline()
	if !ok || time.Until(deadline) > enough {
		p.entered.Add(1)
		defer p.entered.Add(-1)
		return p.db.Conn(ctx)
	}
	if conn, ok, err := p.withoutDial(ctx); ok {
		return conn, err
	}
	if !p.slow.Load() {
		return p.dial(ctx, func() {})
	}
	select {
	case p.dials <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	dialing := false
	defer func() {
		if !dialing { // the driver may have panicked
			<-p.dials
		}
	}()
	if conn, ok, err := p.withoutDial(ctx); ok { // it has been done meanwhile
		return conn, err
	}
	dialing = true
	return p.dial(ctx, sync.OnceFunc(func() { <-p.dials }))
}

// withoutDial is db.Conn for a caller that will not have to make a connection:
// there are more idle ones than other callers are about to take, or the
// pool is full. It reports whether that is so.
func (p *Pool) withoutDial(ctx context.Context) (conn *sql.Conn, ok bool, err error) {
	p.entered.Add(1)
	defer p.entered.Add(-1)
	s := p.db.Stats()
	switch {
	case int64(s.Idle) >= p.entered.Load():
		conn, err = p.idle(ctx)
		return conn, true, err
	case s.MaxOpenConnections > 0 && s.OpenConnections >= s.MaxOpenConnections:
		conn, err = p.db.Conn(ctx)
		return conn, true, err
	}
	return nil, false, nil
}

// idle takes an idle connection. pgx tries one that was not used for a second,
// and closes it if ctx ends meanwhile.
func (p *Pool) idle(ctx context.Context) (*sql.Conn, error) {
	patient, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(pingPatience)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-patient.Done():
		}
	})
	conn, err := p.db.Conn(patient)
	if stop() {
		return conn, err
	}
	if err == nil {
		_ = conn.Close() // into the pool
	}
	return nil, ctx.Err()
}

// dial makes a connection, to its end, and gives the caller's token back then, or
// when it takes long. A dial that outlives its caller takes one, if there is one. If
// it panics then, there is no caller to tell.
func (p *Pool) dial(ctx context.Context, giveBack func()) (*sql.Conn, error) {
	type result struct {
		conn     *sql.Conn
		err      error
		exited   bool // by a panic or runtime.Goexit
		panicked any
	}
	made, over := make(chan result), make(chan struct{})
	alone := time.AfterFunc(dialAlone, giveBack)
	go func() {
		defer close(over)
		defer giveBack()
		defer alone.Stop()
		r := result{exited: true}
		defer func() {
			if r.exited {
				r.panicked = recover()
			}
			select {
			case made <- r:
			case <-ctx.Done():
				if r.conn != nil {
					_ = r.conn.Close() // into the pool
				}
			}
		}()
		patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialPatience)
		defer cancel()
		r.conn, r.err = p.db.Conn(patient)
		r.exited = false
	}()
	select {
	case r := <-made:
		p.slow.Store(false)
		switch {
		case r.panicked != nil:
			panic(r.panicked)
		case r.exited:
			runtime.Goexit()
		}
		return r.conn, r.err
	case <-ctx.Done():
		p.slow.Store(true)
		select {
		case p.dials <- struct{}{}:
			go p.keepAlone(over)
		default: // another one is alone
		}
		return nil, ctx.Err()
	}
}

// keepAlone gives a token back when a dial is over, or has taken long.
func (p *Pool) keepAlone(over <-chan struct{}) {
	defer func() { <-p.dials }()
	timer := time.NewTimer(dialAlone)
	defer timer.Stop()
	select {
	case <-over:
	case <-timer.C:
	}
}

// OpenConnections returns how many connections the pool has.
func (p *Pool) OpenConnections() int { return p.db.Stats().OpenConnections }
