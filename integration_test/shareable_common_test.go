package integration_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pulse"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// What the other locks of a common session must not suffer from, nor leave on it.

// spoiler changes messages on their way to the server.
type spoiler struct {
	changes atomic.Pointer[[]string] // old and new, in turn
}

func (s *spoiler) on(config *pgx.ConnConfig) {
	wrapping(func(c net.Conn) net.Conn { return &spoiledConn{c, s} })(config)
}

// spoil has each old text in a message replaced by the new one that follows it.
func (s *spoiler) spoil(changes ...string) { s.changes.Store(&changes) }

type spoiledConn struct {
	net.Conn
	spoiler *spoiler
}

func (c *spoiledConn) Write(b []byte) (int, error) {
	changes := c.spoiler.changes.Load()
	if changes == nil || len(b) == 0 || b[0] != 'Q' {
		return c.Conn.Write(b)
	}
	message := bytes.Clone(b)
	for i := 0; i < len(*changes); i += 2 {
		message = bytes.Replace(message, []byte((*changes)[i]), []byte((*changes)[i+1]), 1)
	}
	binary.BigEndian.PutUint32(message[1:], uint32(len(message)-1))
	_, err := c.Conn.Write(message)
	return len(b), err
}

// A question that fails just after the grant leaves no lock behind, on a session
// that other locks are on as on one that goes back to the pool.
func TestShareableTryFailsAfterTheGrant(t *testing.T) {
	t.Parallel()
	db, s := newDB(t), new(spoiler)
	watcher := openSame(t, db)
	db = openDB(t, dsnOf(t, db), s.on, func(config *pgx.ConnConfig) {
		config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { t.Errorf("the server, and its log, is told: %s", n.Message) }
	})
	db.SetMaxOpenConns(1)
	key, beside := hashkey.Name("key"), hashkey.Name("beside")
	question := []string{"select asked.slot", "select 1/asked.slot"}
	forsaking := append([]string{"select case when exists", "select 1/0, case when exists"}, question...)
	for _, shared := range []bool{false, true} {
		o := shareable
		o.Shared = shared
		l := sessionlock.New(db).With(o)
		for _, changes := range [][]string{question, forsaking} {
			// fails asks for key in vain.
			fails := func() {
				t.Helper()
				s.spoil(changes...)
				if _, err := l.TryLock(t.Context(), key); err == nil {
					t.Error("there is no error")
				}
				s.spoil()
			}
			fails() // on a session of its own
			isFree(t, watcher, key)
			noTrace(t, watcher, db)

			other := lock(t, l, beside)
			fails()
			isFree(t, watcher, key)
			if len(changes) == len(question) { // or the session was ended
				notLost(t, other)
				unlock(t, other)
			}
			_ = other.Unlock()
			noTrace(t, watcher, db)
		}
		if !shared {
			continue
		}
		// The session has the very lock for somebody else, who keeps it.
		other, same := lock(t, l, beside), lock(t, l, key)
		for range 2 {
			s.spoil(question...)
			if _, err := l.TryLock(t.Context(), key); err == nil {
				t.Error("there is no error")
			}
			s.spoil()
		}
		_, err := sessionlock.New(watcher).TryLock(t.Context(), key)
		wantError(t, err, sessionlock.ErrNotAcquired)
		unlock(t, same)
		isFree(t, watcher, key)
		notLost(t, other)
		unlock(t, other)
	}
	noTrace(t, watcher, db)
}

// commonPID returns the session that has all locks of a database.
func commonPID(tb testing.TB, watcher *sql.DB) int {
	tb.Helper()
	return number(tb, watcher, `select distinct pid from pg_locks where`+inThisDatabase)
}

// stop stops a session's process, until the test calls cont or ends.
func stop(tb testing.TB, pid int) (cont func()) {
	tb.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		tb.Fatal(err)
	}
	cont = sync.OnceFunc(func() {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			tb.Error(err)
		}
	})
	tb.Cleanup(cont)
	return cont
}

// An unlock waits for its turn on the session for as long as somebody else uses
// it, and is done then.
func TestShareableUnlockWaitsForItsTurn(t *testing.T) {
	t.Parallel()
	watcher, m := newDB(t), new(meter)
	db := openMetered(t, dsnOf(t, watcher), m)
	// The watch does not use the session.
	l := sessionlock.New(db).With(sessionlock.Options{Shareable: true, Check: time.Hour, DeadClient: 3 * time.Hour})
	ctx := pulse.With(t.Context(), time.Hour)
	keep, k := lockUnder(ctx, t, l, hashkey.Name("keep")), lockUnder(ctx, t, l, hashkey.Name("k"))
	cont := stop(t, commonPID(t, watcher))
	sent := m.messages.Load()
	token := make(chan error, 1)
	go func() {
		_, err := keep.Token(t.Context())
		token <- err
	}()
	until(t, "the token is asked for", func() bool { return m.messages.Load() > sent })
	unlocked := make(chan error, 1)
	go func() { unlocked <- k.Unlock() }()
	<-k.Lost()
	select {
	case err := <-unlocked:
		t.Fatalf("the unlock returned %v while the session was in use", err)
	case <-time.After(5500 * time.Millisecond): // its own message gets four seconds, and one more
	}
	cont()
	<-token // asked for too long, perhaps
	if err := <-unlocked; err != nil {
		t.Errorf("the unlock returned %v", err)
	}
	isFree(t, watcher, hashkey.Name("k"))
	notLost(t, keep)
	unlock(t, keep)
	noTrace(t, watcher, db)
}

// A lock that its callback has given back is not given back again after MaxHold
// and Grace: the session would be taken for one that nobody needs.
func TestShareableFreedOnce(t *testing.T) {
	t.Parallel()
	db, watcher := two(t)
	l := sessionlock.New(db).With(shareable)
	keep := lock(t, l, hashkey.Name("keep"))
	o := shareable
	o.MaxHold, o.Grace = 20*time.Millisecond, 20*time.Millisecond
	err := l.With(o).WithLock(t.Context(), hashkey.Name("early"), func(ctx context.Context, _ *sql.Conn) error {
		err := sessionlock.FromContext(ctx).Unlock()
		passes(t, watcher, 10*(o.MaxHold+o.Grace))
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := sessionlock.New(watcher).TryLock(t.Context(), hashkey.Name("keep")); err == nil {
		t.Error("the lock beside is free")
	}
	notLost(t, keep)
	unlock(t, keep)
	noTrace(t, watcher, db)
}

// A callback that outstays MaxHold and Grace loses its lock and nobody else's,
// also while it goes on.
func TestShareableOutstayed(t *testing.T) {
	t.Parallel()
	watcher, m := newDB(t), new(meter)
	db := openMetered(t, dsnOf(t, watcher), m)
	l := sessionlock.New(db).With(shareable)
	ctx := pulse.With(t.Context(), 2*time.Second) // the server has half of it for its answer
	keep := lockUnder(ctx, t, l, hashkey.Name("keep"))
	o := shareable
	o.MaxHold, o.Grace = 20*time.Millisecond, 20*time.Millisecond
	err := l.With(o).WithLock(ctx, hashkey.Name("slow"), func(ctx context.Context, _ *sql.Conn) error {
		<-ctx.Done()
		becomesFree(t, watcher, hashkey.Name("slow"))
		asked := m.messages.Load()
		until(t, "the session is asked for its locks", func() bool { return m.messages.Load() > asked+1 || keep.Err() != nil })
		return nil
	})
	wantError(t, err, sessionlock.ErrLost)
	notLost(t, keep)
	unlock(t, keep)
	noTrace(t, watcher, db)
}

// unlockingCtx calls unlock when it is first asked for its channel.
type unlockingCtx struct {
	context.Context
	unlock func()
}

func (c unlockingCtx) Done() <-chan struct{} {
	c.unlock()
	return c.Context.Done()
}

// Token asks nothing on a session whose lock is given back just then: the
// connection is somebody else's.
func TestShareableTokenDuringUnlock(t *testing.T) {
	t.Parallel()
	watcher, m := newDB(t), new(meter)
	db := openMetered(t, dsnOf(t, watcher), m)
	l := sessionlock.New(db).With(shareable)
	for _, keeps := range []bool{false, true} {
		var keep *sessionlock.Lock
		if keeps {
			keep = lock(t, l, hashkey.Name("keep"))
		}
		k := lock(t, l, hashkey.Name("k"))
		_, err := k.Token(unlockingCtx{t.Context(), sync.OnceFunc(func() { unlock(t, k) })})
		wantError(t, err, sessionlock.ErrUnlocked)
		if keeps {
			unlock(t, keep)
		}
	}
	noTrace(t, watcher, db)
}

// Token of a lock whose session has ended does not wait for the connection that another
// call takes in its place.
func TestShareableTokenAfterTheEnd(t *testing.T) {
	t.Parallel()
	watcher := newDB(t)
	p, through := newProxy(t, dsnOf(t, watcher))
	db := openDB(t, dsnOf(t, watcher), through)
	db.SetMaxOpenConns(1)
	l := sessionlock.New(db).With(sessionlock.Options{Shareable: true, Check: time.Hour, DeadClient: 3 * time.Hour})
	ctx, cancel := context.WithCancel(pulse.With(t.Context(), time.Hour))
	var calls sync.WaitGroup
	defer calls.Wait()
	defer cancel()
	k := lockUnder(ctx, t, l, hashkey.Name("k"))

	// A call uses the session, another one waits for it, and then Token does.
	s := &swallow{text: "asked.slot", hang: true, reached: make(chan struct{})}
	p.swallow.Store(s)
	try := func(name string) {
		calls.Go(func() {
			if k, err := l.TryLock(ctx, hashkey.Name(name)); err == nil {
				unlock(t, k)
			}
		})
	}
	try("uses")
	<-s.reached
	try("waits")
	passes(t, watcher, 50*time.Millisecond)
	token := make(chan error, 1)
	go func() {
		_, err := k.Token(bounded(t))
		token <- err
	}()
	passes(t, watcher, 50*time.Millisecond)

	// The connection goes to a stranger.
	stranger := make(chan *sql.Conn)
	go func() {
		conn, err := db.Conn(t.Context())
		if err != nil {
			t.Error(err)
		}
		stranger <- conn
	}()
	until(t, "the stranger waits for a connection", func() bool { return db.Stats().WaitCount == 1 })
	p.swallow.Store(&swallow{text: "nothing is lost", hang: true})
	p.cutAll()
	conn := <-stranger
	wantError(t, <-token, sessionlock.ErrLost)
	wantNoError(t, conn.Close())
	wantError(t, k.Unlock(), sessionlock.ErrLost)
}

// ctx bounds the question, too, and the other locks of a session that does not
// answer do not suffer from a caller's short one.
func TestShareableDeadlineDuringTheQuestion(t *testing.T) {
	t.Parallel()
	db, watcher := two(t)
	l := sessionlock.New(db).With(shareable)
	keep := lock(t, l, hashkey.Name("keep"))
	cont := stop(t, commonPID(t, watcher))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := l.Lock(ctx, hashkey.Name("k"))
	took := time.Since(began)
	cont()
	wantError(t, err, sessionlock.ErrNotAcquired, context.DeadlineExceeded)
	if took > 3*time.Second {
		t.Errorf("the call took %v, with 50ms", took)
	}
	becomesFree(t, watcher, hashkey.Name("k"))
	unlock(t, lock(t, l, hashkey.Name("k")))
	notLost(t, keep)
	unlock(t, keep)
	noTrace(t, watcher, db)
}

// errCtx is a ctx that calls f when it is asked whether it has ended.
type errCtx struct {
	context.Context
	f func()
}

func (c errCtx) Err() error {
	c.f()
	return c.Context.Err()
}

// The server has the session speak as often as the lock that is the first on it
// needs, whichever call is the first to come back.
func TestShareableLeaseOfTheFirst(t *testing.T) {
	t.Parallel()
	db, watcher := two(t)
	first := sessionlock.New(db).With(sessionlock.Options{Shareable: true, DeadClient: time.Second})
	second := first.With(sessionlock.Options{Shareable: true, DeadClient: time.Hour})
	var beside *sessionlock.Lock
	granted := sync.OnceFunc(func() { beside = lock(t, second, hashkey.Name("second")) })
	ctx := errCtx{t.Context(), func() {
		if heldLocks(t, watcher) == 1 {
			granted()
		}
	}}
	k := lockUnder(ctx, t, first, hashkey.Name("first"))
	pid := commonPID(t, watcher)
	until(t, "the session has spoken, or is gone", func() bool {
		return beside.Err() != nil || number(t, watcher, `select count(*) from pg_stat_activity
			where pid = $1 and state_change - backend_start > interval '3 seconds'`, pid) == 1
	})
	for _, k := range []*sessionlock.Lock{k, beside} {
		notLost(t, k)
		unlock(t, k)
	}
	noTrace(t, watcher, db)
}

// A call that is granted its lock returns, whatever the session is busy with by then.
func TestShareableGrantWaitsForNobody(t *testing.T) {
	t.Parallel()
	db, watcher := two(t)
	l := sessionlock.New(db).With(sessionlock.Options{Shareable: true, Check: time.Hour, DeadClient: 3 * time.Hour})
	other := make(chan error, 1)
	var cont func()
	frozen := sync.OnceFunc(func() {
		cont = stop(t, commonPID(t, watcher))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := l.Lock(ctx, hashkey.Name("other"))
		other <- err
	})
	ctx := errCtx{pulse.With(t.Context(), time.Hour), func() {
		if heldLocks(t, watcher) == 1 {
			frozen()
		}
	}}
	began := time.Now()
	k := lockUnder(ctx, t, l, hashkey.Name("k"))
	took := time.Since(began)
	cont()
	wantError(t, <-other, sessionlock.ErrNotAcquired)
	if took > 3*time.Second {
		t.Errorf("the call took %v after its grant", took)
	}
	unlock(t, k)
	noTrace(t, watcher, db)
}
