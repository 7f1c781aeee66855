package txguard_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/nesting"
	"github.com/pgadvisory/pgadvisory/internal/txguard"
)

// session is one that a statement's end leaves in a status.
type session struct {
	status  byte
	closed  bool
	cancels atomic.Int32
}

func (s *session) IsClosed() bool                      { return s.closed }
func (s *session) CancelRequest(context.Context) error { s.cancels.Add(1); return nil }
func (s *session) Conn() net.Conn                      { return nil }
func (s *session) Close(context.Context) error         { s.closed = true; return nil }
func (s *session) TxStatus() byte                      { return s.status }

// left is what a statement leaves open.
type left struct {
	prepared bool // and does not run

	guard *txguard.Guard
	watch *interrupt.Watch
	open  bool
}

func (l *left) CloseLocked() error {
	l.open = false
	l.guard.Forget(l)
	l.watch.Stop()
	return nil
}

func (l *left) Runs() bool { return !l.prepared }

var (
	keys      = []hashkey.Key{hashkey.Name("k")}
	errClosed = errors.New("closed")
	errFailed = &pgconn.PgError{Code: "23505"}
)

// use has a statement come to err, and the session to a status.
func use(ctx context.Context, g *txguard.Guard, s *session, status byte, err error) error {
	return g.Use(ctx, false, func(context.Context, *interrupt.Watch) error {
		s.status = status
		return err
	})
}

// A statement's ctx does not end, and the first error that fails the transaction
// is kept until fn goes back to a savepoint.
func TestUse(t *testing.T) {
	s := &session{status: 'T'}
	g := txguard.Make(context.Background(), s, interrupt.Policy{}, keys, errClosed)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := g.Use(ctx, false, func(ctx context.Context, _ *interrupt.Watch) error {
		if ctx.Done() != nil {
			t.Error("the statement's ctx can end")
		}
		return nil
	})
	if err != nil || g.FirstError() != nil {
		t.Errorf("got %v, and the first error is %v", err, g.FirstError())
	}
	_ = use(ctx, &g, s, 'E', errFailed)
	_ = use(ctx, &g, s, 'E', &pgconn.PgError{Code: "25P02"})
	if g.FirstError() != errFailed || g.Ended() != nil {
		t.Errorf("the first error is %v, and %v", g.FirstError(), g.Ended())
	}
	if _ = use(ctx, &g, s, 'T', nil); g.FirstError() != nil {
		t.Errorf("behind a savepoint, the first error is %v", g.FirstError())
	}
	cancel()
	if err := use(ctx, &g, s, 'I', nil); !errors.Is(err, context.Canceled) || g.Ended() != nil {
		t.Errorf("after the end of ctx: %v, and the statement ran: %v", err, g.Ended())
	}
	if _ = use(t.Context(), &g, s, 'I', nil); g.Ended() == nil {
		t.Error("the end of the transaction is not noticed")
	}
	g.MarkEnded(lockerr.EndedByCommit) // which came later
	err = use(t.Context(), &g, s, 'I', nil)
	if want := lockerr.TxEnded(keys, lockerr.EndedByText); !errors.Is(err, lockerr.ErrTxEnded) || err.Error() != want.Error() {
		t.Errorf("after the end of the transaction: %v, want %v", err, want)
	}
}

// End closes what is open, its watch included, and keeps everything off.
func TestEnd(t *testing.T) {
	for name, panics := range map[string]bool{"tidy": false, "after a panic": true} {
		t.Run(name, func(t *testing.T) {
			s := &session{status: 'T'}
			g := txguard.Make(context.Background(), s, interrupt.Policy{CancelRequest: true}, keys, errClosed)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			l := &left{guard: &g}
			if panics {
				func() {
					defer func() { _ = recover() }()
					_ = g.Use(ctx, true, func(context.Context, *interrupt.Watch) error { panic("in a statement") })
				}()
			} else {
				err := g.Use(ctx, true, func(_ context.Context, w *interrupt.Watch) error {
					l.open, l.watch = true, w
					g.Add(l)
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			if g.End() || l.open || !g.Over() {
				t.Errorf("what is open is closed %t, over %t", !l.open, g.Over())
			}
			cancel()
			if err := use(t.Context(), &g, s, 'T', nil); err != errClosed {
				t.Errorf("after the end: %v", err)
			}
			if n := s.cancels.Load(); n != 0 {
				t.Errorf("%d cancel requests after the end", n)
			}
		})
	}
	g := txguard.Make(context.Background(), &session{status: 'T'}, interrupt.Policy{}, keys, errClosed)
	if !g.End() {
		t.Error("nothing was open, and End says that something was")
	}
}

// Whether the session is gone is read where no statement runs, nothing is open and
// the call goes on.
func TestLost(t *testing.T) {
	gone := func() error { return errFailed }
	unread := func() error { t.Error("the connection is read"); return nil }
	s := &session{status: 'T'}
	g := txguard.Make(context.Background(), s, interrupt.Policy{}, keys, errClosed)
	if !g.Lost(gone) || g.Lost(func() error { return nil }) {
		t.Error("what is read is not believed")
	}
	_ = g.Use(t.Context(), false, func(context.Context, *interrupt.Watch) error {
		if g.Lost(unread) {
			t.Error("lost under a statement")
		}
		return nil
	})
	l := &left{guard: &g}
	g.Lock()
	g.Add(l)
	g.Unlock()
	if g.Lost(unread) {
		t.Error("lost while rows are open")
	}
	s.closed = true
	if !g.Lost(unread) {
		t.Error("a closed session is not lost")
	}
	g.End()
	if g.Lost(unread) {
		t.Error("lost after the call")
	}
}

// A statement that says DEALLOCATE is noticed wherever the word is, and so is the
// connection in fn's own hands.
func TestMayDeallocate(t *testing.T) {
	for sql, want := range map[string]bool{
		"":                                      false,
		"update t set n = 1":                    false,
		"d":                                     false,
		"select allocated, de, allocate":        false,
		"deallocate all":                        true,
		" /* d */ DeAllocate \"s\"":             true,
		"do $$begin execute 'DEALLOCATE';end$$": true,
		"select 1; deallocate":                  true,
	} {
		g := txguard.Make(context.Background(), &session{status: 'T'}, interrupt.Policy{}, keys, errClosed)
		g.Read(sql)
		g.Read("select 1")
		if got := g.MayDeallocate(); got != want {
			t.Errorf("after %q: %t, want %t", sql, got, want)
		}
	}
	g := txguard.Make(context.Background(), &session{status: 'T'}, interrupt.Policy{}, keys, errClosed)
	g.Expose()
	if !g.MayDeallocate() {
		t.Error("exposed: false, want true")
	}
}

// The ctx of this call's fn is watched for what ends it by the caller, and any other
// ctx as it is, that of another call's fn too.
func TestWhoseContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own := nesting.With(t.Context(), nesting.Transaction, nil, keys)
		other := nesting.With(t.Context(), nesting.Transaction, nil, keys)
		for ctx, want := range map[*nesting.Context]int32{own: 0, other: 1} {
			s := &session{status: 'T'}
			g := txguard.Make(own, s, interrupt.Policy{CancelRequest: true, DeadlineDelay: time.Minute}, keys, errClosed)
			_ = g.Use(ctx, false, func(context.Context, *interrupt.Watch) error {
				ctx.End(lockerr.ErrLost)
				synctest.Wait()
				s.closed = true // Stop has nothing to mend then
				return nil
			})
			if n := s.cancels.Load(); n != want {
				t.Errorf("%d cancel requests, want %d", n, want)
			}
		}
	})
}

// A transaction that fn has ended past the guard is seen to be over before a statement.
func TestEndedPastTheGuard(t *testing.T) {
	s := &session{status: 'T'}
	g := txguard.Make(context.Background(), s, interrupt.Policy{}, keys, errClosed)
	s.status = 'I'
	err := use(t.Context(), &g, s, 'I', nil)
	if !errors.Is(err, lockerr.ErrTxEnded) || !errors.Is(g.Ended(), lockerr.ErrTxEnded) {
		t.Errorf("got %v, %v", err, g.Ended())
	}
}
