package cronlock_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/robfig/cron/v3"

	cronlock "github.com/pgadvisory/pgadvisory/adapters/cron"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/locktest"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

var key = hashkey.Name("billing/invoices")

// logger keeps what it is told.
type logger struct {
	mu    sync.Mutex
	infos []string // guarded by mu
	errs  []error  // guarded by mu
}

func (l *logger) Info(msg string, _ ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.infos = append(l.infos, msg)
}

func (l *logger) Error(err error, msg string, _ ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errs = append(l.errs, fmt.Errorf("%s: %w", msg, err))
}

// TestSkipIfHeldElsewhere has cron run a job on two machines, whose clocks differ by
// more than the job takes.
func TestSkipIfHeldElsewhere(t *testing.T) {
	url := locktest.URL(t)
	var log logger
	var runs []string
	run := func(machine string) {
		l := sessionlock.New(locktest.DB(t)).With(sessionlock.Options{MinHold: time.Hour})
		runUnder(t, cronlock.SkipIfHeldElsewhere(l, key, &log), func() { runs = append(runs, machine) })
	}
	run("one")
	run("two")
	if fmt.Sprint(runs) != "[one]" || fmt.Sprint(log.infos) != "[skip]" || log.errs != nil {
		t.Errorf("the job has run on %v; logged: %v, %v", runs, log.infos, log.errs)
	}
	locktest.Lose(t, url, key) // and with the lock what is left of the hour
	run("three")
	if fmt.Sprint(runs) != "[one three]" {
		t.Errorf("the job has run on %v", runs)
	}
}

// What is no mere skip is logged as an error.
func TestErrors(t *testing.T) {
	url, db := locktest.URL(t), locktest.DB(t)
	var log logger
	wrapper := cronlock.SkipIfHeldElsewhere(sessionlock.New(db), key, &log)
	runUnder(t, wrapper, func() { locktest.Lose(t, url, key) })
	if len(log.errs) != 1 || !errors.Is(log.errs[0], sessionlock.ErrLost) {
		t.Errorf("the lock was lost; logged: %v", log.errs)
	}
	panics := runUnder(t, wrapper, func() { panic("a bug") })
	if len(panics) != 1 || !strings.Contains(panics[0].Error(), "a bug") {
		t.Errorf("the job panicked; cron's Recover has logged %v", panics)
	}
	runUnder(t, wrapper, func() {}) // the lock is free
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	runUnder(t, wrapper, func() { t.Error("the job has run without a lock") })
	if len(log.errs) != 2 || log.infos != nil {
		t.Errorf("the pool is closed; logged: %v, %v", log.infos, log.errs)
	}
}

// Runs for which the pool has no connection are given up, and do not come later,
// one after the other.
func TestNoConnection(t *testing.T) {
	db := locktest.DB(t)
	db.SetMaxOpenConns(1)
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var log logger
	wrapper := cronlock.SkipIfHeldElsewhere(sessionlock.New(db), key, &log)
	var ticks sync.WaitGroup
	for range 3 {
		ticks.Go(func() { runUnder(t, wrapper, func() { t.Error("the job has run without a lock") }) })
	}
	given := make(chan struct{})
	go func() { ticks.Wait(); close(given) }()
	select {
	case <-given:
	case <-time.After(30 * time.Second):
		t.Fatal("the runs still wait for a connection")
	}
	if len(log.errs) != 3 || log.infos != nil || !errors.Is(log.errs[0], context.DeadlineExceeded) {
		t.Errorf("logged: %v, %v", log.infos, log.errs)
	}
}

// A wrapper without a logger logs to cron's own.
func TestNoLogger(t *testing.T) {
	var log logger
	defer func(usual cron.Logger) { cron.DefaultLogger = usual }(cron.DefaultLogger)
	cron.DefaultLogger = &log
	locktest.Hold(t, locktest.URL(t), key)
	wrapper := cronlock.SkipIfHeldElsewhere(sessionlock.New(locktest.DB(t)), key, nil)
	if panics := runUnder(t, wrapper, func() { t.Error("the job has run without a lock") }); panics != nil {
		t.Errorf("the wrapper panicked: %v", panics)
	}
	if fmt.Sprint(log.infos) != "[skip]" {
		t.Errorf("logged: %v", log.infos)
	}
}

// The lock excludes, whatever the options of the Locker say.
func TestSharedExcludes(t *testing.T) {
	var log logger
	shared := func() cron.JobWrapper {
		l := sessionlock.New(locktest.DB(t)).With(sessionlock.Options{Shared: true})
		return cronlock.SkipIfHeldElsewhere(l, key, &log)
	}
	runUnder(t, shared(), func() {
		runUnder(t, shared(), func() { t.Error("the job runs on two machines at once") })
	})
	if fmt.Sprint(log.infos) != "[skip]" || log.errs != nil {
		t.Errorf("logged: %v, %v", log.infos, log.errs)
	}
}

// runUnder runs a job as cron does when its time has come, and returns the panics
// that cron has recovered from.
func runUnder(t *testing.T, wrapper cron.JobWrapper, job func()) []error {
	t.Helper()
	var recovered logger
	c := cron.New(cron.WithChain(cron.Recover(&recovered), wrapper))
	id, err := c.AddFunc("@yearly", job)
	if err != nil {
		t.Fatal(err)
	}
	c.Entry(id).WrappedJob.Run()
	return recovered.errs
}
