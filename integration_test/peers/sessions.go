package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// sessions is what locks of sessions cost.
type sessions struct {
	handOver  [2][]float64 // seconds, ours and in the server's own queue
	turns     [2][]float64 // a second, of one contended key with an empty section
	timeouts  int          // waits that timed out
	dials     int64        // connections made for them
	shareable int          // locks held at once
	take      time.Duration
	free      time.Duration
	inUse     int // connections that they took
}

const ours, queue = 0, 1

var sessionKey = hashkey.Name("a session's lock")

// sessionPlan is how much of it is measured.
type sessionPlan struct {
	handOvers int
	turns     timing
	timeouts  int
	shareable int
}

func (b *bench) measureSessions(ctx context.Context) (s sessions, err error) {
	p := b.server.place(0, poolSize, poolSize)
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.fill(ctx); err != nil {
		return s, err
	}
	b.say("sessions: hand-over")
	for range b.sessions.handOvers {
		for _, who := range []int{ours, queue} {
			d, err := handOver(ctx, p.db, who)
			if err != nil {
				return s, err
			}
			s.handOver[who] = append(s.handOver[who], d.Seconds())
		}
	}
	b.say("sessions: turns")
	for range b.sessions.turns.rounds {
		for _, who := range []int{ours, queue} {
			n, err := sessionTurns(ctx, p.db, who, b.sessions.turns.slice)
			if err != nil {
				return s, err
			}
			s.turns[who] = append(s.turns[who], n)
		}
	}
	b.say("sessions: timeouts")
	if err := b.sessionTimeouts(ctx, &s); err != nil {
		return s, err
	}
	b.say("sessions: shareable locks")
	return s, b.shareableLocks(ctx, &s)
}

// lockBy returns functions that lock and unlock: by sessionlock, or by hand on a
// connection of the caller's own.
func lockBy(ctx context.Context, db *sql.DB, l *sessionlock.Locker, who int) (lock, unlock, done func() error, err error) {
	if who == ours {
		var k *sessionlock.Lock
		return func() (err error) { k, err = l.Lock(ctx, sessionKey); return err },
			func() error { return k.Unlock() }, func() error { return nil }, nil
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	exec := func(query string) func() error {
		return func() error { _, err := conn.ExecContext(ctx, query, sessionKey.Int64()); return err }
	}
	return exec("select pg_advisory_lock($1)"), exec("select pg_advisory_unlock($1)"), conn.Close, nil
}

// handOver returns the time from the unlock of one holder to the grant of the
// next, who waits in the server's queue.
func handOver(ctx context.Context, db *sql.DB, who int) (d time.Duration, err error) {
	lock, unlock, done, err := lockBy(ctx, db, sessionlock.New(db), who)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, done()) }()
	nextLock, nextUnlock, nextDone, err := lockBy(ctx, db, sessionlock.New(db), who)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, nextDone()) }()
	if err := lock(); err != nil {
		return 0, err
	}
	granted := make(chan error, 1)
	var at time.Time
	go func() {
		err := nextLock()
		at = time.Now()
		granted <- err
	}()
	time.Sleep(5 * time.Millisecond) // until it waits
	began := time.Now()
	if err := unlock(); err != nil {
		return 0, err
	}
	if err := <-granted; err != nil {
		return 0, err
	}
	return at.Sub(began), nextUnlock()
}

// sessionTurns returns how many turns a second goroutines take that want one
// lock, with nothing to do while they have it.
func sessionTurns(ctx context.Context, db *sql.DB, who int, slice time.Duration) (float64, error) {
	const goroutines = 8
	l := sessionlock.New(db)
	var turns atomic.Int64
	var ready sync.WaitGroup
	ready.Add(goroutines)
	start := make(chan struct{})
	var end time.Time
	var all errgroup.Group
	for range goroutines {
		all.Go(func() (err error) {
			lock, unlock, done, err := lockBy(ctx, db, l, who)
			ready.Done()
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, done()) }()
			<-start
			for time.Now().Before(end) {
				if err := errors.Join(lock(), unlock()); err != nil {
					return err
				}
				turns.Add(1)
			}
			return nil
		})
	}
	ready.Wait()
	began := time.Now()
	end = began.Add(slice)
	close(start)
	err := all.Wait()
	return float64(turns.Load()) / time.Since(began).Seconds(), err
}

// sessionTimeouts counts the connections that waits cost which time out.
func (b *bench) sessionTimeouts(ctx context.Context, s *sessions) (err error) {
	dials := new(tap)
	p := b.server.place(0, 4, 4, dials)
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.fill(ctx); err != nil {
		return err
	}
	holder, err := sessionlock.New(p.db).Lock(ctx, sessionKey)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, holder.Unlock()) }()
	before := dials.dials.Load()
	l := sessionlock.New(p.db).With(sessionlock.Options{Wait: 20 * time.Millisecond})
	for range b.sessions.timeouts {
		if _, err := l.Lock(ctx, sessionKey); !errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("a wait that should have timed out: %w", err)
		}
	}
	s.timeouts, s.dials = b.sessions.timeouts, dials.dials.Load()-before
	return nil
}

// shareableLocks takes many locks, and gives them back.
func (b *bench) shareableLocks(ctx context.Context, s *sessions) (err error) {
	p := b.server.place(0, 4, 4)
	defer func() { err = errors.Join(err, p.close()) }()
	l := sessionlock.New(p.db).With(sessionlock.Options{Shareable: true})
	locks := make([]*sessionlock.Lock, b.sessions.shareable)
	began := time.Now()
	for i := range locks {
		if locks[i], err = l.Lock(ctx, hashkey.Pair(1, int32(i))); err != nil {
			return err
		}
	}
	s.shareable, s.take, s.inUse = len(locks), time.Since(began), p.db.Stats().InUse
	began = time.Now()
	for _, k := range locks {
		if err := k.Unlock(); err != nil {
			return err
		}
	}
	s.free = time.Since(began)
	return nil
}

// judge judges what is required of locks of sessions.
func (s *sessions) judge() []verdict {
	handOver, dials, inUse := math.NaN(), math.NaN(), math.NaN()
	if s.timeouts > 0 {
		handOver = median(s.handOver[ours]) / median(s.handOver[queue])
		dials, inUse = float64(s.dials), float64(s.inUse)
	}
	return []verdict{
		atMost(1.5).judge("hand-over of a session lock, median, sessionlock / the server's own queue", handOver),
		atMost(0).judge(fmt.Sprintf("connections made by %d waits for a session lock that timed out", s.timeouts), dials),
		atMost(2).judge(fmt.Sprintf("connections that %d Shareable locks take", s.shareable), inUse),
	}
}

func (r *results) sessionTable() table {
	s := &r.sessions
	t := table{title: "Locks of sessions", header: []string{"what", "sessionlock", "by hand"}}
	if s.timeouts == 0 {
		return t
	}
	ms := func(seconds float64) string { return fmt.Sprintf("%.2f ms", 1000*seconds) }
	t.add("hand-over, median", ms(median(s.handOver[ours])), ms(median(s.handOver[queue])))
	t.add("turns a second of one key, 8 goroutines, empty section", fmt.Sprintf("%.0f", median(s.turns[ours])), fmt.Sprintf("%.0f", median(s.turns[queue])))
	t.add(fmt.Sprintf("connections made by %d waits of 20 ms", s.timeouts), fmt.Sprint(s.dials), "–")
	each := func(d time.Duration) string {
		return fmt.Sprintf("%.0f µs", float64(d.Microseconds())/float64(s.shareable))
	}
	t.add(fmt.Sprintf("one of %d Shareable locks, on %s: to take, to free", s.shareable, count(s.inUse, "connection")),
		each(s.take)+", "+each(s.free), "–")
	return t
}
