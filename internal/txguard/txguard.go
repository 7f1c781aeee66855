// Package txguard stands between fn and the connection that carries fn's
// transaction. It watches over each statement: when the statement's ctx ends,
// the server is asked to cancel it, where the driver alone would cut the connection. It
// notes what statements do to the transaction. And once the call is over, it keeps
// everything that fn has left from the connection.
package txguard

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/nesting"
)

// Session is what this package needs of the session that runs the transaction.
// A *pgconn.PgConn is one.
type Session interface {
	interrupt.Conn
	TxStatus() byte
}

// Open is what a statement leaves open on the connection, rows for instance.
type Open interface {
	// CloseLocked closes it, and takes it out of the guard's list. The guard is
	// locked. It may be called twice.
	CloseLocked() error

	// Runs reports whether it is of a statement that runs, whose answer is not read to
	// its end.
	Runs() bool
}

// Guard is the guard of one transaction. It is locked while the connection is in
// use.
type Guard struct {
	fnCtx   context.Context
	session Session
	policy  interrupt.Policy
	closed  error
	keys    []hashkey.Key // that the transaction holds

	ended atomic.Int32 // how fn ended the transaction, or tried to: a lockerr.Ending
	over  atomic.Bool  // the call is over: nothing may reach the connection

	exposed     atomic.Bool // fn may use the connection past the guard
	deallocates atomic.Bool // a statement may take prepared statements away

	looking sync.Mutex // held while Lost uses the connection

	mu       sync.Mutex
	open     []Open // guarded by mu
	failure  error  // guarded by mu: the error that made the transaction fail, if it is failed
	panicked bool   // guarded by mu: a panic has passed through a statement
}

// Make returns a Guard for the transaction that is open on session, and holds
// keys. fn has the ctx fnCtx. policy is for a statement when its ctx ends. A statement
// that comes when the call is over gets the error closed.
func Make(fnCtx context.Context, session Session, policy interrupt.Policy, keys []hashkey.Key, closed error) Guard {
	return Guard{fnCtx: fnCtx, session: session, policy: policy, keys: keys, closed: closed}
}

// Use calls f, which uses the connection for a statement with ctx. f's own ctx
// does not end: when ctx does, the server is asked to cancel the statement. The
// watch w is over when Use returns. But if keep is true and f returns nil, it goes
// on, for what f has opened and added, which stops it when it is closed.
func (g *Guard) Use(ctx context.Context, keep bool, f func(endless context.Context, w *interrupt.Watch) error) (err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.refuses(ctx); err != nil {
		return err
	}
	if ctx == g.fnCtx { // what ends it before the caller's is the loss of this session
		ctx = nesting.Caller(ctx)
	}
	w := interrupt.Start(ctx, g.session, g.policy)
	returned := false
	defer func() {
		if !returned || !keep || err != nil {
			w.Stop()
		} else {
			w.Idle(true)
		}
		g.panicked = g.panicked || !returned
		g.Note(err)
		err = lockerr.Because(ctx, err)
	}()
	endless := ctx
	if ctx.Done() != nil {
		endless = context.WithoutCancel(ctx)
	}
	err = f(endless, w)
	returned = true
	return err
}

// refuses returns why a statement with ctx may not run.
func (g *Guard) refuses(ctx context.Context) error {
	if g.over.Load() {
		return g.closed
	}
	if !g.session.IsClosed() && g.session.TxStatus() == 'I' { // by what fn has done past the guard
		g.MarkEnded(lockerr.EndedByText)
	}
	if err := g.Ended(); err != nil {
		return err // rather than run it without the lock
	}
	return ctx.Err()
}

// Note notes what a statement that came to err has done to the transaction. The
// guard is locked.
func (g *Guard) Note(err error) {
	if g.session.IsClosed() {
		return
	}
	switch g.session.TxStatus() {
	case 'I':
		g.MarkEnded(lockerr.EndedByText)
	case 'T':
		g.failure = nil // fn went back to a savepoint of its own
	case 'E':
		if g.failure == nil && lockerr.SQLState(err) != "" {
			g.failure = err
		}
	}
}

// Lock waits for the use of the connection to end, and keeps it unused until
// Unlock.
func (g *Guard) Lock() { g.mu.Lock() }

// Unlock is the end of what Lock began.
func (g *Guard) Unlock() { g.mu.Unlock() }

// Add adds what is open. The guard is locked.
func (g *Guard) Add(o Open) { g.open = append(g.open, o) }

// Forget takes what is closed out of the list. The guard is locked.
func (g *Guard) Forget(closed Open) {
	for i, o := range g.open {
		if o == closed {
			g.open = append(g.open[:i], g.open[i+1:]...)
			return
		}
	}
}

// End ends the use of the connection, when what runs on it has ended, and closes
// what is open. It reports whether no panic has passed through a statement, and
// nothing was open.
func (g *Guard) End() (tidy bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	tidy = !g.panicked && len(g.open) == 0
	g.over.Store(true)
	for len(g.open) > 0 {
		_ = g.open[len(g.open)-1].CloseLocked() // an error leaves a connection that is seen to be closed, or not idle
	}
	return tidy
}

// Over reports whether the use of the connection has ended.
func (g *Guard) Over() bool { return g.over.Load() }

// MarkEnded notes how fn has ended the transaction, or tried to. Further statements
// are refused.
func (g *Guard) MarkEnded(by lockerr.Ending) {
	g.ended.CompareAndSwap(int32(lockerr.NotEnded), int32(by))
}

// Ended returns ErrTxEnded, and says how, if fn has ended the transaction, or tried
// to, by a method or by a statement.
func (g *Guard) Ended() error {
	by := lockerr.Ending(g.ended.Load())
	if by == lockerr.NotEnded {
		return nil
	}
	return lockerr.TxEnded(g.keys, by)
}

// Expose notes that fn has the driver's connection, and may use it at any time. It
// waits for a look that is under way, and for no statement: it may be called within one.
func (g *Guard) Expose() {
	g.exposed.Store(true)
	g.looking.Lock()
	defer g.looking.Unlock()
}

// Read notes the text of a statement that is to be sent.
func (g *Guard) Read(sql string) {
	if !g.deallocates.Load() && deallocates(sql) {
		g.deallocates.Store(true)
	}
}

// MayDeallocate reports whether fn may have taken away prepared statements that are
// not its own.
func (g *Guard) MayDeallocate() bool { return g.exposed.Load() || g.deallocates.Load() }

// deallocates reports whether DEALLOCATE is somewhere in sql, be it in a DO block.
func deallocates(sql string) bool {
	const word = "deallocate"
	for ; len(sql) >= len(word); sql = sql[1:] {
		if sql[0]|0x20 == word[0] && strings.EqualFold(sql[:len(word)], word) {
			return true
		}
	}
	return false
}

// Lost reports whether the session is gone, as far as a statement has found out,
// or, where none runs, read does.
func (g *Guard) Lost(read func() error) bool {
	g.looking.Lock()
	defer g.looking.Unlock()
	if g.exposed.Load() || !g.mu.TryLock() {
		return false // a statement runs, or may run, and will fail
	}
	defer g.mu.Unlock()
	switch {
	case g.over.Load():
		return false
	case g.session.IsClosed():
		return true
	}
	return !slices.ContainsFunc(g.open, Open.Runs) && read() != nil
}

// FirstError returns the error of the statement that made the transaction fail,
// if it is failed and that was a statement of fn.
func (g *Guard) FirstError() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failure
}
