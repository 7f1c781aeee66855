package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// smallLoad is a fraction of fullLoad with as much contention. Its wait is
// long for the sake of slow machines, where xactlock must not get stuck.
var smallLoad = load{
	accounts: 8,
	clients:  24,
	requests: 72,
	think:    3 * time.Millisecond,
	wait:     5 * time.Second,
}

func newDemo(t *testing.T, out io.Writer) *demo {
	t.Helper()
	return &demo{
		dsn:   pgtest.New(t).DSN(),
		style: styles[0],
		load:  smallLoad,
		out:   out,
		log:   slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

func TestDemo(t *testing.T) {
	var out bytes.Buffer
	if err := newDemo(t, &out).run(t.Context()); err != nil {
		t.Errorf("%v\n%s", err, &out)
	}
	const columns = "lost updates  requests stuck  locks left behind"
	for _, want := range []string{columns, "\nWRONG: no lock ", "\nWRONG: session lock, pooled ", "\nxactlock "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table has no %q:\n%s", want, &out)
		}
	}
}

// The last row in the other styles.
func TestDemoInOtherStyles(t *testing.T) {
	for _, style := range styles[1:] {
		t.Run(style.name, func(t *testing.T) {
			d := newDemo(t, io.Discard)
			d.style, d.load.requests = style, smallLoad.requests/2
			o, err := d.measure(t.Context(), right(style))
			if err != nil {
				t.Fatal(err)
			}
			if err := isFlawless(o); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTableIsAligned(t *testing.T) {
	var out bytes.Buffer
	printIntro(&out, smallLoad)
	intro := strings.LastIndex(out.String(), "\n\n") + 2
	for _, v := range append(variants(styles[0]), right(styles[1]), right(styles[2])) {
		printRow(&out, v.name, outcome{requests: 1000, latencies: []time.Duration{9999 * time.Millisecond}})
	}
	rows := strings.Split(strings.TrimSuffix(out.String()[intro:], "\n"), "\n")
	for _, row := range rows {
		if len(row) != len(rows[0]) {
			t.Errorf("not aligned:\n%s", &out)
		}
	}
}

// An interrupt that comes while the clients are at work ends them, and the
// database of the run is dropped all the same.
func TestInterruptedDemoLeavesNoDatabase(t *testing.T) {
	ctx, interrupt := context.WithCancelCause(t.Context())
	defer interrupt(nil)
	errInterrupt := errors.New("interrupted by the test")
	interrupted := locked(func(ctx context.Context) error {
		interrupt(errInterrupt)
		<-ctx.Done() // the client hangs up
		return ctx.Err()
	})
	d := newDemo(t, io.Discard)
	if _, err := d.measure(ctx, interrupted); !errors.Is(err, errInterrupt) {
		t.Errorf("error is %v, want %v", err, errInterrupt)
	}
	n, err := queryInt(t.Context(), newTestDB(t, d.dsn), `select count(*) from pg_database where datname like 'webapp\_demo\_%'`)
	if n != 0 || err != nil {
		t.Errorf("%d databases are left, error %v", n, err)
	}
}

// lockerFunc is a txLocker that never gets to what it should guard.
type lockerFunc func(ctx context.Context) error

func (f lockerFunc) WithTx(ctx context.Context, _ hashkey.Key, _ xactlock.Func) error { return f(ctx) }

func locked(f lockerFunc) variant {
	return variant{accounts: func(p *pools, _ load) accountStore { return &sqlAccounts{db: p.db, locker: f} }}
}

func TestDemoFailsOnAnUnexpectedAnswer(t *testing.T) {
	broken := locked(func(context.Context) error { return errors.New("out of order") })
	_, err := newDemo(t, io.Discard).measure(t.Context(), broken)
	if err == nil || !strings.Contains(err.Error(), "500 Internal Server Error") {
		t.Errorf("error is %v, want one that quotes the answer", err)
	}
}

func TestChecks(t *testing.T) {
	for name, test := range map[string]struct {
		check func(outcome) error
		o     outcome
		ok    bool
	}{
		"an update lost without a lock":   {losesUpdates, outcome{lost: 1}, true},
		"none lost without a lock":        {losesUpdates, outcome{stuck: 1, left: 1}, false},
		"a lock left in the pool":         {leavesLocks, outcome{left: 1}, true},
		"no lock left in the pool":        {leavesLocks, outcome{lost: 1, stuck: 1}, false},
		"nothing wrong with xactlock":     {isFlawless, outcome{requests: 5}, true},
		"an update lost with xactlock":    {isFlawless, outcome{lost: 1}, false},
		"a request stuck with xactlock":   {isFlawless, outcome{stuck: 1}, false},
		"a lock left behind by xactlock":  {isFlawless, outcome{left: 1}, false},
		"a withdrawal nobody was told of": {isFlawless, outcome{lost: -1}, false},
	} {
		if err := test.check(test.o); (err == nil) != test.ok {
			t.Errorf("%s: %v, want ok = %t", name, err, test.ok)
		}
	}
}

func TestPercentile(t *testing.T) {
	var o outcome
	if got := o.percentile(50); got != 0 {
		t.Errorf("p50 of nothing is %v, want 0", got)
	}
	for i := range 200 {
		o.latencies = append(o.latencies, time.Duration(i+1))
	}
	for p, want := range map[int]time.Duration{1: 2, 50: 100, 99: 198, 100: 200} {
		if got := o.percentile(p); got != want {
			t.Errorf("p%d of 1…200 is %d, want %d", p, got, want)
		}
	}
}
