package sessionlock

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/bounds"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/nesting"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
)

// A Lock is a lock that is held, or was, by a session of the server: its own, or with
// Options.Shareable the Locker's common one. Its methods may be called concurrently.
type Lock struct {
	home    home
	key     hashkey.Key // what is locked
	asked   hashkey.Key // what was asked for: not the same for a slot
	opts    *Options
	owner   any // the pool
	granted time.Time
	session *pgsession.Session
	besides *holdings       // all locks of the session
	traced  context.Context // what Options.Trace has returned; without it, Background
	callers bool            // of LockConn
	watched <-chan struct{} // closed when the session is seen to have ended

	held     context.Context // ends with the lock; the cause says how
	end      context.CancelCauseFunc
	unlocked func() unlocking
	giveTurn func() // of a lock on the common session: the next in this process may take it

	telling atomic.Bool   // the end is told, or about to be
	told    chan struct{} // closed when it is

	lossMu sync.Mutex
	loss   error // guarded by lossMu; how the loss was noticed

	tokenMu chan struct{} // holds a token while the lock's own is asked for
	token   uint64        // guarded by tokenMu; 0 until it was asked for
}

// unlocking is what an unlock has come to.
type unlocking struct {
	err   error
	later bool // with MinHold: the lock is not free yet
}

// home is where a lock lives: on a session that is pinned for it, or on the common
// one.
type home interface {
	// conn returns the session for the caller's own statements, or nil.
	conn() *sql.Conn
	// use calls f while nothing else uses the session, with what to send a message
	// by.
	use(ctx context.Context, k *Lock, f func(sender) error) error
	// free gives the lock back, once.
	free(k *Lock) error
	// isHeld asks the server whether the lock is held, and returns why it is lost, or
	// nil.
	isHeld(k *Lock) error
	// cut ends the lock of a callback that does not return.
	cut(k *Lock)
}

// sender sends a message that frees nothing.
type sender func(locksql.Message) (pgsession.Answer, error)

// newLock returns the lock of key that the session has.
func newLock(h home, p *pool, key hashkey.Key, session *pgsession.Session, besides *holdings) *Lock {
	k := &Lock{home: h, key: key, asked: p.key, opts: p.opts, owner: p.owner, granted: time.Now(), session: session, besides: besides, traced: context.Background(), tokenMu: make(chan struct{}, 1), told: make(chan struct{})}
	k.held, k.end = context.WithCancelCause(context.Background())
	k.unlocked = sync.OnceValue(k.unlockOnce)
	return k
}

// Key returns what was locked: of WithSlot, the slot.
func (k *Lock) Key() hashkey.Key { return k.key }

// Conn returns the session that holds the lock, for statements that belong on
// it; most work is better done through the pool. It is the same connection
// each time, and takes one statement at a time.
//
// pgx closes the connection when the ctx of a statement ends, and the lock goes
// with it, unless the pool was made with [CancelStatements]. Bound a statement
// with statement_timeout, or give it a ctx that does not end.
//
// It is nil for a lock with Options.Shareable.
//
// Do not close it. If that happens, the pool has a connection with a lock on
// it, until the lock is noticed as lost, which ends the session.
func (k *Lock) Conn() *sql.Conn { return k.home.conn() }

// Lost returns a channel that is closed when the lock is lost, as far as that
// can be noticed, and at Unlock. Err then tells which.
//
// A session that ended, for whatever reason, is noticed within Options.Check.
// One behind a network that swallows everything, and one that lives on without the
// lock, is noticed within twenty seconds: the server is asked every ten. While
// a statement runs on Conn or rows are open nothing can be asked, and the
// statement's own error or the rows' may have to come first.
func (k *Lock) Lost() <-chan struct{} { return k.held.Done() }

// Err returns nil while the lock is held, as far as is known, [ErrLost] once
// it is lost, and [ErrUnlocked] once Unlock was called on a lock that was not.
func (k *Lock) Err() error { return context.Cause(k.held) }

// Token returns the fencing token of the lock: a transaction id that the
// server assigned while the lock was held (pg_current_xact_id). It is larger
// than the token of every earlier holder, so that a system outside the
// database can refuse what comes late from a holder that lost the lock. It
// stays the same for as long as the lock is held. xactlock has its tokens from
// the same counter, so that the holders of one key may be of both kinds.
//
// A crash of the server does not bring a token back: it is on disk when Token
// returns it, and on as many standbys as the session's synchronous_commit says,
// unless Conn is in a transaction of the caller's own.
//
// The first call asks the server, on Conn, where no rows may be open, and waits
// for a statement that runs there; later ones wait for it. Token returns when ctx
// ends. The question is cancelled then, that of a Shareable lock, for which the other
// locks of the session wait, after four seconds; if the server does not answer within
// two seconds more, the lock is lost. Token returns [ErrLost] or [ErrUnlocked] if the
// lock is not held.
func (k *Lock) Token(ctx context.Context) (uint64, error) {
	select {
	case k.tokenMu <- struct{}{}:
		defer func() { <-k.tokenMu }()
	case <-ctx.Done():
		return 0, fmt.Errorf("sessionlock: %s: fencing token: %w", k.key, lockerr.Ended(ctx))
	}
	if err := k.Err(); err != nil {
		return 0, about(k.key, err)
	}
	if k.token == 0 {
		token, err := k.askToken(ctx)
		switch {
		case err == nil:
		case k.Err() == ErrLost:
			return 0, k.lostBy(lockerr.Because(ctx, err))
		default:
			return 0, fmt.Errorf("sessionlock: %s: fencing token: %w", k.key, lockerr.Because(ctx, err))
		}
		k.token = token
	}
	return k.token, nil
}

// askToken asks the server. If ctx ends first, the question goes on without the
// caller, until it is cancelled.
func (k *Lock) askToken(ctx context.Context) (uint64, error) {
	type answer struct {
		token uint64
		err   error
	}
	answered := make(chan answer, 1)
	go func() {
		var a answer
		a.err = k.home.use(ctx, k, func(send sender) (err error) {
			a.token, err = k.tokenBy(ctx, send)
			return err
		})
		answered <- a
	}()
	select {
	case a := <-answered:
		return a.token, a.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (k *Lock) tokenBy(ctx context.Context, send sender) (uint64, error) {
	if err := cmp.Or(ctx.Err(), k.Err()); err != nil { // by now another caller may have the session
		return 0, err
	}
	if k.session.PG().IsBusy() {
		return 0, errRows
	}
	answer, err := send(locksql.SessionToken())
	if k.session.Closed() {
		k.lose(cmp.Or(err, errDead))
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(first(answer), 10, 64)
}

// Unlock gives the lock back and puts the connection back into the pool, with
// its settings as they were. It takes one message, and if the server does not
// answer about five seconds; a statement that is running on Conn gets four to
// end before that, and is cancelled then. On the session of Shareable locks it
// first waits for the locks that ask something there before it. Unlock is idempotent:
// every call returns what the first one did, when that is done.
//
// In no case is the lock left in the pool. nil means that it was held until
// now and is free. [ErrLost] means that it was not held to the end. After
// either, and after any other error, the session that had it is closed if it
// could not be cleaned: an unlock that failed, that the server answered with
// false, or that found a transaction or rows left open on Conn, which is an
// error.
//
// With Options.MinHold it may return nil before the lock is free; but that of a
// lock on a connection of the caller's own waits until MinHold is over.
func (k *Lock) Unlock() error {
	u := k.unlocked()
	if !u.later {
		k.tellEnd(u.err) // when it is unlocked: Observe may call Unlock
	}
	return u.err
}

func (k *Lock) unlockOnce() unlocking {
	if k.opts.MinHold > time.Since(k.granted) && k.Err() == nil { // the unlock, which comes later, cannot tell
		if err := k.home.isHeld(k); err != nil {
			k.lose(err)
		}
	}
	k.end(ErrUnlocked) // of a lock that is lost it changes nothing
	rest := k.opts.MinHold - time.Since(k.granted)
	switch {
	case rest <= 0 || errors.Is(k.Err(), ErrLost):
		return unlocking{err: k.home.free(k)}
	case k.callers: // the caller may use the connection for anything from now on
		return unlocking{err: k.freeAfter(rest)}
	}
	go func() { k.tellEnd(k.freeAfter(rest)) }()
	return unlocking{later: true}
}

// freeAfter gives the lock back after d, or when the session has ended.
func (k *Lock) freeAfter(d time.Duration) error {
	select {
	case <-time.After(d):
	case <-k.watched:
	}
	return k.home.free(k)
}

// tellEnd tells Options.Observe and Trace of the end of the lock, once, and returns
// when that is told. It does not wait for long: it may be Observe that has called Unlock.
func (k *Lock) tellEnd(err error) {
	if k.telling.Swap(true) {
		interrupt.ClosedWithin(k.told, poolPatience)
		return
	}
	defer close(k.told)
	e := Event{Kind: Released, Key: k.asked, Held: time.Since(k.granted), Err: err}
	if errors.Is(err, ErrLost) {
		e.Kind = Lost
	}
	k.opts.tell(k.traced, e)
}

// tellLost tells of the end of a lock that is lost, and not of one that is
// unlocked: it is called when either has happened, on a goroutine of its own.
func (k *Lock) tellLost() {
	if k.Err() == ErrLost {
		k.tellEnd(k.lost())
	}
}

// lose marks k as lost, unless it is lost or unlocked already.
func (k *Lock) lose(loss error) {
	k.lossMu.Lock()
	defer k.lossMu.Unlock()
	if k.held.Err() == nil {
		k.loss = loss
		k.end(ErrLost)
	}
}

// cut ends the lock of a callback that has outstayed MaxHold and Grace. Of a lock
// that was unlocked before, the session is another caller's.
func (k *Lock) cut() {
	k.lose(errOutstayed)
	if errors.Is(k.Err(), ErrLost) {
		k.home.cut(k)
	}
}

// lost returns the error of a lock that was noticed as lost.
func (k *Lock) lost() error {
	k.lossMu.Lock()
	defer k.lossMu.Unlock()
	return k.lostBy(k.loss)
}

// wasLost reports whether k turned out to be lost, by the time of its unlock.
func (k *Lock) wasLost() bool { return errors.Is(k.Unlock(), ErrLost) }

func (k *Lock) lostBy(loss error) error {
	return fmt.Errorf("%w: %s: %w", ErrLost, k.key, loss)
}

type lockKey struct{}

// FromContext returns the lock in whose callback ctx was handed out by
// [Locker.WithLock], [Locker.WithSlot], their Try, or [Locker.Lead], the innermost
// where there are several, or nil. It is how a leader comes by its
// [Lock.Token].
func FromContext(ctx context.Context) *Lock {
	k, _ := ctx.Value(lockKey{}).(*Lock)
	return k
}

// during runs fn with a ctx that ends with the lock, and gives the lock back. ctx
// is that of the call.
func (k *Lock) during(ctx context.Context, fn func(context.Context) error) error {
	if k.opts.Trace != nil {
		ctx = k.traced
	}
	if o := k.opts; o.MaxHold > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, k.granted.Add(o.MaxHold), ErrMaxHold)
		defer cancel()
		cut := time.AfterFunc(bounds.Longest(o.MaxHold, o.Grace), k.cut)
		defer cut.Stop()
	}
	mark := nesting.With(ctx, nesting.Session, k.owner, []hashkey.Key{k.asked, k.key})
	defer mark.Release()
	stop := context.AfterFunc(k.held, func() {
		mark.End(k.Err())
		k.tellLost()
	})
	defer func() {
		stop()
		mark.End(k.Err()) // now, and not when AfterFunc gets to it
	}()
	defer k.Unlock() // for a panic and runtime.Goexit; what it returns is seen below

	err := fn(context.WithValue(mark, lockKey{}, k))
	unlockErr := k.Unlock()
	switch {
	case err == nil, err == ErrLost && errors.Is(unlockErr, ErrLost): // the cause of ctx's end
		return unlockErr
	case unlockErr == nil:
		return err
	}
	return fmt.Errorf("%w (%w)", err, unlockErr)
}
