package gocronlock_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-co-op/gocron/v2"
	"github.com/google/uuid"

	gocronlock "github.com/pgadvisory/pgadvisory/adapters/gocron"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/testneed"
	"github.com/pgadvisory/pgadvisory/locktest"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

const patience = 30 * time.Second

// machine is one of several that run the same scheduler.
type machine struct {
	scheduler gocron.Scheduler
	outcomes  chan gocron.JobStatus // of the runs
	lockErrs  chan error
}

var until = testneed.Until

func newMachine(t *testing.T, option gocron.SchedulerOption) *machine {
	t.Helper()
	m := &machine{outcomes: make(chan gocron.JobStatus, 10), lockErrs: make(chan error, 10)}
	scheduler, err := gocron.NewScheduler(option, gocron.WithMonitor(m))
	if err != nil {
		t.Fatal(err)
	}
	m.scheduler = scheduler
	scheduler.Start()
	t.Cleanup(func() {
		if err := scheduler.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// IncrementJob is [gocron.Monitor]'s.
func (m *machine) IncrementJob(_ uuid.UUID, _ string, _ []string, status gocron.JobStatus) {
	m.outcomes <- status
}

// RecordJobTiming is [gocron.Monitor]'s.
func (m *machine) RecordJobTiming(time.Time, time.Time, uuid.UUID, string, []string) {}

// run runs a job now, and returns what became of it.
func (m *machine) run(t *testing.T, name string, job func()) gocron.JobStatus {
	t.Helper()
	_, err := m.scheduler.NewJob(gocron.OneTimeJob(gocron.OneTimeJobStartImmediately()), gocron.NewTask(job), gocron.WithName(name),
		gocron.WithEventListeners(gocron.AfterLockError(func(_ uuid.UUID, _ string, err error) { m.lockErrs <- err })))
	if err != nil {
		t.Fatal(err)
	}
	return receive(t, m.outcomes)
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatal("nothing has come")
		panic("unreachable")
	}
}

func nothing() {}

// logs is where the adapter's messages go.
type logs struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logs) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// Of several machines one runs a short job, also if their clocks differ: the second
// one comes when the first one has done it.
func TestLocker(t *testing.T) {
	url := locktest.URL(t)
	var log logs
	newLocker := func(ns hashkey.Namespace, minHold time.Duration) gocron.SchedulerOption {
		l := sessionlock.New(locktest.DB(t)).With(sessionlock.Options{MinHold: minHold, Shareable: true})
		return gocron.WithDistributedLocker(gocronlock.NewLocker(l, ns, log.logger()))
	}
	first, late := newMachine(t, newLocker("billing", time.Hour)), newMachine(t, newLocker("billing", time.Hour))
	if got := first.run(t, "report", nothing); got != gocron.Success {
		t.Errorf("on the first machine: %s", got)
	}
	if got := late.run(t, "report", nothing); got != gocron.Skip {
		t.Errorf("on the machine that is late: %s", got)
	}
	if err := receive(t, late.lockErrs); !errors.Is(err, sessionlock.ErrNotAcquired) {
		t.Errorf("the listener of the machine that is late gets: %v", err)
	}
	other := newMachine(t, newLocker("shipping", 0))
	if got := other.run(t, "report", nothing); got != gocron.Success {
		t.Errorf("the job of the same name of another service: %s", got)
	}
	if log.String() != "" {
		t.Errorf("logged without need: %s", &log)
	}
	got := other.run(t, "export", func() { locktest.Lose(t, url, hashkey.Namespace("shipping").Name("export")) })
	if got != gocron.Success {
		t.Errorf("the job whose lock is lost: %s", got)
	}
	until(t, "the loss is logged", func() bool { return strings.Contains(log.String(), "export") && strings.Contains(log.String(), "lost") })
}

// A run for which the pool has no connection is given up, and does not come later.
func TestLockerWithoutConnection(t *testing.T) {
	db := locktest.DB(t)
	db.SetMaxOpenConns(1)
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var log logs
	m := newMachine(t, gocron.WithDistributedLocker(gocronlock.NewLocker(sessionlock.New(db), "billing", log.logger())))
	if got := m.run(t, "report", nothing); got != gocron.Skip {
		t.Errorf("the job: %s", got)
	}
	if err := receive(t, m.lockErrs); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the listener gets: %v", err)
	}
	if !strings.Contains(log.String(), "report") {
		t.Errorf("it is not logged: %s", &log)
	}
}

// The lock of a job excludes, whatever the options of the Locker say.
func TestLockerExcludes(t *testing.T) {
	var lockers [2]gocron.Locker
	for i := range lockers {
		l := sessionlock.New(locktest.DB(t)).With(sessionlock.Options{Shared: true})
		lockers[i] = gocronlock.NewLocker(l, "billing", nil)
	}
	lock, err := lockers[0].Lock(t.Context(), "report")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock(t.Context())
	if _, err := lockers[1].Lock(t.Context(), "report"); !errors.Is(err, sessionlock.ErrNotAcquired) {
		t.Errorf("another machine gets the lock too, or %v", err)
	}
}

// The leader runs the jobs. When its process ends, or its session, another one does.
func TestElector(t *testing.T) {
	url, key := locktest.URL(t), hashkey.Name("scheduler")
	var log logs
	newElector := func() *gocronlock.Elector {
		l := sessionlock.New(locktest.DB(t)).With(sessionlock.Options{Check: 20 * time.Millisecond})
		e := gocronlock.NewElector(l, key, log.logger())
		t.Cleanup(e.Close)
		return e
	}
	leads := func(e *gocronlock.Elector) func() bool {
		return func() bool { return e.IsLeader(context.Background()) == nil }
	}
	one := newElector()
	until(t, "the first candidate leads", leads(one))
	two := newElector()
	for elector, want := range map[*gocronlock.Elector]gocron.JobStatus{one: gocron.Success, two: gocron.Skip} {
		if got := newMachine(t, gocron.WithDistributedElector(elector)).run(t, "report", nothing); got != want {
			t.Errorf("the job: %s, want %s", got, want)
		}
	}
	if err := two.IsLeader(t.Context()); !errors.Is(err, gocronlock.ErrNotLeader) {
		t.Errorf("the second candidate: %v", err)
	}
	locktest.Lose(t, url, key)
	until(t, "the second candidate leads after the first one's session", func() bool { return leads(two)() && !leads(one)() })
	until(t, "the loss is logged", func() bool { return strings.Contains(log.String(), "lost") })
	two.Close()
	if err := two.IsLeader(t.Context()); !errors.Is(err, gocronlock.ErrNotLeader) || !errors.Is(err, context.Canceled) {
		t.Errorf("Close returned before the term was over: %v", err)
	}
	until(t, "the first candidate leads after the second one", leads(one))
}

// A leader whose term is bounded is a candidate again, and no campaign is over.
func TestElectorTerms(t *testing.T) {
	var log logs
	var terms atomic.Int64
	l := sessionlock.New(locktest.DB(t)).With(sessionlock.Options{
		MaxHold: 10 * time.Millisecond,
		Observe: func(e sessionlock.Event) {
			if e.Kind == sessionlock.Granted {
				terms.Add(1)
			}
		},
	})
	e := gocronlock.NewElector(l, hashkey.Name("scheduler"), log.logger())
	until(t, "there was another term", func() bool { return terms.Load() > 1 })
	e.Close()
	if log.String() != "" {
		t.Errorf("logged without need: %s", &log)
	}
}

// MinHold, of options that are those of a NewLocker, does not keep the lock when
// the term is over.
func TestElectorWithMinHold(t *testing.T) {
	key := hashkey.Name("scheduler")
	l := sessionlock.New(locktest.DB(t)).With(sessionlock.Options{MinHold: time.Hour})
	e := gocronlock.NewElector(l, key, nil)
	defer e.Close()
	until(t, "it leads", func() bool { return e.IsLeader(t.Context()) == nil })
	e.Close()
	lock, err := sessionlock.New(locktest.DB(t)).TryLock(t.Context(), key)
	if err != nil {
		t.Fatalf("Close has returned, and the lock is not free: %v", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Error(err)
	}
}

// A campaign that cannot be won says why.
func TestElectorWithBadOptions(t *testing.T) {
	var log logs
	l := sessionlock.New(locktest.DB(t)).With(sessionlock.Options{Check: -1})
	e := gocronlock.NewElector(l, hashkey.Name("scheduler"), log.logger())
	defer e.Close()
	until(t, "the reason is known", func() bool {
		err := e.IsLeader(t.Context())
		return errors.Is(err, gocronlock.ErrNotLeader) && strings.Contains(err.Error(), "Options.Check is negative")
	})
	if !strings.Contains(log.String(), "Options.Check is negative") {
		t.Errorf("the reason is not logged: %s", &log)
	}
}
