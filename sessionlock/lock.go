package sessionlock

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/nesting"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
)

// A Lock is a lock that is held, or was, by a session of the server that is
// pinned for it. Its methods may be called concurrently.
type Lock struct {
	locker  *Locker
	key     hashkey.Key
	granted time.Time
	conn    *sql.Conn
	session *pgsession.Session
	saved   []setting // the session's settings as they were

	common   *common       // nil where the lock is not Shareable
	onCommon bool          // it lives on the common session
	seat     *acquire.Call // of a Shareable lock that was waited for, until the unlock

	held    context.Context // ends with the lock; the cause says how
	end     context.CancelCauseFunc
	watched chan struct{} // closed when the watch is over
	unlock  func() error

	lossMu sync.Mutex
	loss   error // guarded by lossMu; how the loss was noticed

	tokenMu sync.Mutex
	token   uint64 // guarded by tokenMu; 0 until it was asked for
}

// newLock returns the lock that c holds, and begins to watch it.
func newLock(c *conn, r request) *Lock {
	k := makeLock(c.locker, c.granted, c.session)
	k.conn, k.saved = c.conn, c.saved
	go k.watch(r.pulse)
	return k
}

func makeLock(l *Locker, key hashkey.Key, session *pgsession.Session) *Lock {
	k := &Lock{locker: l, key: key, granted: time.Now(), session: session, watched: make(chan struct{})}
	k.held, k.end = context.WithCancelCause(context.Background())
	k.unlock = sync.OnceValue(k.unlockOnce)
	return k
}

// Key returns what was locked.
func (k *Lock) Key() hashkey.Key { return k.key }

// Conn returns the session that holds the lock, for statements that belong on
// it; most work is better done through the pool. It is the same connection
// each time, and takes one statement at a time.
//
// pgx closes a connection under a statement whose ctx ends, and the lock goes
// with it, unless the pool's config has a BuildContextWatcherHandler that only
// cancels the statement (pgconn.CancelRequestContextWatcherHandler). Bound a
// statement with statement_timeout, or give it a ctx that does not end.
//
// It is nil for a lock with Options.Shareable.
//
// Do not close it. If that happens, the pool has a connection with a lock on
// it, until the lock is noticed as lost, which ends the session.
func (k *Lock) Conn() *sql.Conn {
	if k.common != nil {
		return nil
	}
	return k.conn
}

// Lost returns a channel that is closed when the lock is lost, as far as that
// can be noticed, and at Unlock. Err then tells which.
//
// A session that ended, for whatever reason, is noticed within Options.Check.
// One whose network swallows everything, and one that lives on without the
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
// The first call asks the server, on Conn, where no rows may be open; ctx
// bounds that. It returns [ErrLost] or [ErrUnlocked] if the lock is not held.
func (k *Lock) Token(ctx context.Context) (uint64, error) {
	k.tokenMu.Lock()
	defer k.tokenMu.Unlock()
	if err := k.Err(); err != nil {
		return 0, about(k.key, err)
	}
	if k.token == 0 {
		token, err := k.askToken(ctx)
		if err != nil {
			return 0, fmt.Errorf("sessionlock: %s: fencing token: %w", k.key, err)
		}
		k.token = token
	}
	return k.token, nil
}

func (k *Lock) askToken(ctx context.Context) (token uint64, err error) {
	err = k.use(ctx, func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		answer, err := k.session.Send(ctx, holding, locksql.Select("select pg_catalog.pg_current_xact_id()::pg_catalog.text"))
		if err != nil {
			return err
		}
		token, err = strconv.ParseUint(first(answer), 10, 64)
		return err
	})
	return token, err
}

// use calls f while nobody else uses the session.
func (k *Lock) use(ctx context.Context, f func() error) error {
	if k.onCommon {
		return k.common.use(ctx, f)
	}
	return k.conn.Raw(func(any) error { return f() })
}

// lose marks k as lost, unless it is unlocked already.
func (k *Lock) lose(loss error) {
	k.lossMu.Lock()
	k.loss = loss
	k.lossMu.Unlock()
	k.end(ErrLost)
}

// cut ends the session of a callback that has outstayed MaxHold and Grace.
func (k *Lock) cut() {
	k.lose(errOutstayed)
	if k.onCommon {
		_ = k.common.free(k.session, k.key, k.locker.opts.Shared) // an error means that it is not held
		return
	}
	k.session.Interrupt()
	k.session.Cut()
}

// lost returns the error of a lock that was noticed as lost.
func (k *Lock) lost() error {
	k.lossMu.Lock()
	defer k.lossMu.Unlock()
	return k.lostBy(k.loss)
}

// wasLost reports whether k turned out to be lost, by the time of its unlock.
func (k *Lock) wasLost() bool { return errors.Is(k.unlock(), ErrLost) }

func (k *Lock) lostBy(loss error) error {
	return fmt.Errorf("%w: %s: %w", ErrLost, k.key, loss)
}

type lockKey struct{}

// FromContext returns the lock in whose callback ctx was handed out by
// [Locker.WithLock], [Locker.TryWithLock] or [Locker.Lead], the innermost
// where there are several, or nil. It is how a leader comes by its
// [Lock.Token].
func FromContext(ctx context.Context) *Lock {
	k, _ := ctx.Value(lockKey{}).(*Lock)
	return k
}

// during runs fn with a ctx that ends with the lock, and gives the lock back.
func (k *Lock) during(ctx context.Context, fn func(context.Context) error) error {
	if o := &k.locker.opts; o.MaxHold > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, k.granted.Add(o.MaxHold), ErrMaxHold)
		defer cancel()
		cut := time.AfterFunc(min(o.MaxHold, math.MaxInt64-o.grace())+o.grace(), k.cut)
		defer cut.Stop()
	}
	mark := nesting.With(ctx, nesting.Session, k.locker.db, []hashkey.Key{k.key})
	defer mark.Release()
	stop := context.AfterFunc(k.held, func() { mark.End(k.Err()) })
	defer stop()
	defer k.unlock() // for a panic and runtime.Goexit; what it returns is seen below

	err := fn(context.WithValue(mark, lockKey{}, k))
	unlockErr := k.unlock()
	switch {
	case err == nil:
		return unlockErr
	case unlockErr == nil:
		return err
	}
	return fmt.Errorf("%w (%w)", err, unlockErr)
}
