package pgadvisoryotel_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/pgadvisory/pgadvisory/hashkey"
	pgadvisoryotel "github.com/pgadvisory/pgadvisory/otel"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

var (
	errExpected = errors.New("an error of the test's own")
	key         = hashkey.Namespace("accounts").ID(42)
)

// A call is a wait and then a hold beneath the caller's span, and fn's statements
// are beneath the hold.
func TestSpansOfAHolder(t *testing.T) {
	s := newSetting(t, pgadvisoryotel.Options{})
	l := xactlock.New(s.db).With(xactlock.Options{Trace: s.telemetry})
	session := sessionlock.New(s.db).With(sessionlock.Options{Trace: s.telemetry.Session})
	for _, test := range []struct {
		op      string
		call    func(ctx context.Context) error
		outcome string
	}{
		{"WithTx", func(ctx context.Context) error {
			return l.WithTx(ctx, key, func(ctx context.Context, tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, `select 1`)
				return err
			})
		}, "committed"},
		{"WithTxOf", func(ctx context.Context) error {
			return xactlock.WithTxOf(ctx, l, key, func(ctx context.Context) (*sql.Tx, error) { return s.db.BeginTx(ctx, nil) },
				func(ctx context.Context, tx *sql.Tx) error {
					_, err := tx.ExecContext(ctx, `select 1`)
					return err
				})
		}, "committed"},
		{"Lock", func(ctx context.Context) error {
			return session.WithLock(ctx, key, func(ctx context.Context, conn *sql.Conn) error {
				_, err := conn.ExecContext(ctx, `select 1`)
				return err
			})
		}, "released"},
	} {
		spans := s.under(t, func(ctx context.Context) {
			if err := test.call(ctx); err != nil {
				t.Fatal(err)
			}
		})
		if len(spans) != 2 || spans[0].Name() != "lock wait accounts" || spans[1].Name() != "lock hold accounts" {
			t.Fatalf("%s: the spans are %v", test.op, names(spans))
		}
		wait, hold := spans[0], spans[1]
		if wait.EndTime().After(hold.StartTime()) {
			t.Errorf("%s: the hold begins before the wait ends", test.op)
		}
		if n := s.statements(hold); n == 0 {
			t.Errorf("%s: fn's statement is not beneath the hold", test.op)
		}
		for span, outcome := range map[sdktrace.ReadOnlySpan]string{wait: "granted", hold: test.outcome} {
			want := map[string]string{"db.system.name": "postgresql", "db.operation.name": test.op,
				"pgadvisory.namespace": "accounts", "pgadvisory.outcome": outcome}
			if outcome == "committed" {
				want["pgadvisory.contended"] = "false"
			}
			equal(t, test.op+": "+span.Name(), attributes(span.Attributes()), want)
			if code := span.Status().Code; code != codes.Unset {
				t.Errorf("%s: %s: status %v", test.op, span.Name(), code)
			}
		}
	}
}

func names(spans []sdktrace.ReadOnlySpan) (names []string) {
	for _, span := range spans {
		names = append(names, span.Name())
	}
	return names
}

func equal(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s: %s is %q, want %q", what, k, got[k], v)
		}
	}
	for k, v := range got {
		if _, ok := want[k]; !ok {
			t.Errorf("%s: it has %s = %q", what, k, v)
		}
	}
}

// panicking is a connector whose hook panics.
type panicking struct{ driver.Connector }

func (panicking) Connect(context.Context) (driver.Conn, error) { panic(errExpected) }

// The last span of a call tells how it has ended.
func TestSpansOfEachEnd(t *testing.T) {
	s := newSetting(t, pgadvisoryotel.Options{})
	l := xactlock.New(s.db).With(xactlock.Options{Trace: s.telemetry})
	session := sessionlock.New(s.db).With(sessionlock.Options{Trace: s.telemetry.Session})
	soon := func(ctx context.Context) context.Context {
		ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	unconnectable := sql.OpenDB(panicking{})
	defer unconnectable.Close()
	busy := hashkey.Int64(7) // it has no namespace
	holder, err := sessionlock.New(s.db).Lock(t.Context(), busy)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Unlock()
	const tables = `create table parent (id int primary key);
		create table child (parent int references parent deferrable initially deferred)`
	if _, err := s.db.Exec(tables); err != nil {
		t.Fatal(err)
	}
	fails := func(query string) xactlock.Func {
		return func(ctx context.Context, tx *sql.Tx) error { _, err := tx.ExecContext(ctx, query); return err }
	}
	for _, test := range []struct {
		name      string
		call      func(ctx context.Context)
		spans     string
		outcome   string
		errorType string // "" if the call has not failed
	}{
		{"fn's error", func(ctx context.Context) {
			_ = l.WithTx(ctx, key, func(context.Context, *sql.Tx) error { return errExpected })
		}, "lock wait accounts, lock hold accounts", "rolled back", "_OTHER"},
		{"a refused try inside", func(ctx context.Context) {
			_ = l.WithTx(ctx, key, func(context.Context, *sql.Tx) error { return xactlock.ErrNotAcquired })
		}, "lock wait accounts, lock hold accounts", "rolled back", "ErrNotAcquired"},
		{"a statement's error", func(ctx context.Context) { _ = l.WithTx(ctx, key, fails(`select 1/0`)) },
			"lock wait accounts, lock hold accounts", "rolled back", "22012"},
		{"a panic", func(ctx context.Context) {
			defer func() { _ = recover() }()
			_ = l.WithTx(ctx, key, func(context.Context, *sql.Tx) error { panic(errExpected) })
		}, "lock wait accounts, lock hold accounts", "rolled back", "panic"},
		{"commit inside, and a panic", func(ctx context.Context) {
			defer func() { _ = recover() }()
			_ = l.WithTx(ctx, key, func(ctx context.Context, tx *sql.Tx) error { panic(fails(`commit`)(ctx, tx)) })
		}, "lock wait accounts, lock hold accounts", "unknown", "panic"},
		{"commit inside", func(ctx context.Context) { _ = l.WithTx(ctx, key, fails(`commit`)) },
			"lock wait accounts, lock hold accounts", "unknown", "ErrTxEnded"},
		{"a refused try", func(ctx context.Context) { _ = l.TryWithTx(ctx, busy, fails(``)) },
			"lock wait", "not acquired", ""},
		{"a deadline", func(ctx context.Context) { _ = l.WithTx(soon(ctx), busy, fails(``)) },
			"lock wait", "not acquired", "ErrNotAcquired"},
		{"a bad argument", func(ctx context.Context) { _ = l.WithTx(ctx, key, nil) },
			"lock wait accounts", "failed", "_OTHER"},
		{"Exec", func(ctx context.Context) { _, _ = l.Exec(ctx, key, `select 1`) },
			"lock exec accounts", "committed", ""},
		{"Exec that fails", func(ctx context.Context) { _, _ = l.Exec(ctx, key, `select 1/0`) },
			"lock exec accounts", "rolled back", "22012"},
		{"Exec whose commit is refused", func(ctx context.Context) { _, _ = l.Exec(ctx, key, `insert into child values (1)`) },
			"lock exec accounts", "failed", "23503"},
		{"Exec at a deadline", func(ctx context.Context) { _, _ = l.Exec(soon(ctx), busy, `select 1`) },
			"lock wait", "not acquired", "ErrNotAcquired"},
		{"Exec with a bad option", func(ctx context.Context) {
			_, _ = l.With(xactlock.Options{Trace: s.telemetry, Wait: -1}).Exec(ctx, key, `select 1`)
		}, "lock exec accounts", "failed", "_OTHER"},
		{"Exec in three messages", func(ctx context.Context) {
			o := l.Options()
			o.Plain = true
			_, _ = l.With(o).Exec(ctx, key, `select 1`)
		}, "lock wait accounts, lock hold accounts", "committed", ""},
		{"Lock", func(ctx context.Context) {
			tx, err := s.db.BeginTx(ctx, nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer tx.Rollback()
			_ = l.Lock(ctx, tx, key)
		}, "lock wait accounts", "granted", ""},
		{"a session's refused try", func(ctx context.Context) { _, _ = session.TryLock(ctx, busy) },
			"lock wait", "not acquired", ""},
		{"a session's deadline", func(ctx context.Context) { _, _ = session.Lock(soon(ctx), busy) },
			"lock wait", "not acquired", "ErrNotAcquired"},
		{"a session's loss", func(ctx context.Context) {
			_ = session.WithLock(ctx, key, func(ctx context.Context, conn *sql.Conn) error {
				_, _ = conn.ExecContext(ctx, `select pg_terminate_backend(pg_backend_pid())`)
				<-ctx.Done()
				return nil
			})
		}, "lock wait accounts, lock hold accounts", "lost", "ErrLost"},
		{"a panic while it connects", func(ctx context.Context) {
			defer func() { _ = recover() }()
			_ = xactlock.New(unconnectable).With(l.Options()).WithTx(ctx, key, fails(``))
		}, "lock wait accounts", "failed", "panic"},
		{"a session's panic while it connects", func(ctx context.Context) {
			defer func() { _ = recover() }()
			_, _ = sessionlock.New(unconnectable).With(session.Options()).Lock(ctx, key)
		}, "lock wait accounts", "failed", "panic"},
	} {
		spans := s.under(t, test.call)
		if got := strings.Join(names(spans), ", "); got != test.spans {
			t.Errorf("%s: the spans are %s, want %s", test.name, got, test.spans)
			continue
		}
		last := spans[len(spans)-1]
		got := attributes(last.Attributes())
		if got["pgadvisory.outcome"] != test.outcome || got["error.type"] != test.errorType ||
			(last.Status().Code == codes.Error) != (test.errorType != "") {
			t.Errorf("%s: %v, status %v", test.name, got, last.Status())
		}
		if text := last.Status().Description; text != test.errorType {
			t.Errorf("%s: the status tells %q", test.name, text)
		}
		contended := got["pgadvisory.contended"] == "true" // or not, if a deadline ended before the call had asked
		if contended && test.outcome != "not acquired" || !contended && test.name == "a refused try" {
			t.Errorf("%s: contended is %t", test.name, contended)
		}
	}
}

// A span does not say that a call was not contended where that is not known: a Lock,
// and an Exec in one message, do not ask before they wait.
func TestContended(t *testing.T) {
	s := newSetting(t, pgadvisoryotel.Options{})
	l := xactlock.New(s.db).With(xactlock.Options{Trace: s.telemetry})
	busy := hashkey.Int64(7)
	holder, err := sessionlock.New(s.db).Lock(t.Context(), busy)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Unlock()
	inTx := func(ctx context.Context, f func(tx *sql.Tx) error) {
		tx, err := s.db.BeginTx(ctx, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer tx.Rollback()
		if err := f(tx); err != nil {
			t.Error(err)
		}
	}
	for _, test := range []struct {
		name string
		call func(ctx context.Context)
		want string // "" if there is no such attribute
	}{
		{"WithTx", func(ctx context.Context) { _ = l.WithTx(ctx, key, nothing) }, "false"},
		{"a refused TryWithTx", func(ctx context.Context) { _ = l.TryWithTx(ctx, busy, nothing) }, "true"},
		{"Exec", func(ctx context.Context) { _, _ = l.Exec(ctx, key, `select 1`) }, ""},
		{"Exec in three messages", func(ctx context.Context) {
			o := l.Options()
			o.Plain = true
			_, _ = l.With(o).Exec(ctx, key, `select 1`)
		}, "false"},
		{"Lock", func(ctx context.Context) {
			inTx(ctx, func(tx *sql.Tx) error { return l.Lock(ctx, tx, key) })
		}, ""},
		{"a refused TryLock", func(ctx context.Context) {
			inTx(ctx, func(tx *sql.Tx) error { _, err := l.TryLock(ctx, tx, busy); return err })
		}, "true"},
	} {
		spans := s.under(t, test.call)
		if got := attributes(spans[len(spans)-1].Attributes())["pgadvisory.contended"]; got != test.want {
			t.Errorf("%s: contended is %q, want %q", test.name, got, test.want)
		}
	}
}

func nothing(context.Context, *sql.Tx) error { return nil }

// A panic of Observe at the grant passes through, and leaves no span open.
func TestObservePanicsAtTheGrant(t *testing.T) {
	s := newSetting(t, pgadvisoryotel.Options{})
	l := sessionlock.New(s.db).With(sessionlock.Options{Trace: s.telemetry.Session, Observe: func(e sessionlock.Event) {
		if e.Kind == sessionlock.Granted {
			panic(errExpected)
		}
	}})
	spans := s.under(t, func(ctx context.Context) {
		defer func() {
			if p := recover(); p != errExpected {
				t.Errorf("the panic is %v, want that of Observe", p)
			}
		}()
		_, _ = l.Lock(ctx, key)
	})
	if len(spans) != 1 {
		t.Errorf("the spans that have ended are %v", names(spans))
	}
}

// Metrics tell durations in seconds, outcomes and types of error by namespace, and
// no names of keys; spans do if they shall.
func TestMetrics(t *testing.T) {
	s := newSetting(t, pgadvisoryotel.Options{Names: true})
	l := xactlock.New(s.db).With(xactlock.Options{Trace: s.telemetry})
	keys := []hashkey.Key{key, hashkey.Namespace("accounts").ID(7), hashkey.Namespace("users").ID(1), hashkey.Int64(1)}
	const work = 20 * time.Millisecond
	began := time.Now()
	spans := s.under(t, func(ctx context.Context) {
		for _, result := range []error{nil, nil, errExpected} {
			_ = l.WithTxAll(ctx, keys, func(context.Context, *sql.Tx) error { time.Sleep(work); return result })
		}
		_ = l.WithTxAll(ctx, keys, nil)
	})
	lasted := time.Since(began)
	for _, span := range spans {
		if texts := attributes(span.Attributes())["pgadvisory.keys"]; !strings.Contains(texts, "accounts/42") || !strings.Contains(texts, "users/1") {
			t.Errorf("%s: the keys are %q", span.Name(), texts)
		}
	}
	wantCounts := map[string]map[string]uint64{ // by outcome, error.type and namespaces
		"pgadvisory.lock.wait.duration": {"granted//accounts,users": 3, "failed/_OTHER/accounts,users": 1},
		"pgadvisory.lock.hold.duration": {"committed//accounts,users": 2, "rolled back/_OTHER/accounts,users": 1},
		"pgadvisory.lock.calls":         {"committed//accounts,users": 2, "rolled back/_OTHER/accounts,users": 1, "failed/_OTHER/accounts,users": 1},
	}
	metrics := s.metrics(t)
	for name, want := range wantCounts {
		got := map[string]uint64{}
		count := func(attrs map[string]string, n uint64) {
			got[attrs["pgadvisory.outcome"]+"/"+attrs["error.type"]+"/"+attrs["pgadvisory.namespace"]] += n
			if attrs["db.operation.name"] != "WithTxAll" || attrs["db.system.name"] != "postgresql" || attrs["pgadvisory.keys"] != "" {
				t.Errorf("%s: attributes %v", name, attrs)
			}
		}
		switch data := metrics[name].(type) {
		case metricdata.Histogram[float64]:
			for _, point := range data.DataPoints {
				count(attributes(point.Attributes.ToSlice()), point.Count)
				least := 0.0
				if strings.Contains(name, "hold") {
					least = float64(point.Count) * work.Seconds()
				}
				if point.Sum < least || point.Sum > lasted.Seconds() {
					t.Errorf("%s: %v seconds, want %v to %v", name, point.Sum, least, lasted.Seconds())
				}
			}
		case metricdata.Sum[int64]:
			for _, point := range data.DataPoints {
				count(attributes(point.Attributes.ToSlice()), uint64(point.Value))
			}
		default:
			t.Errorf("%s is a %T", name, data)
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
