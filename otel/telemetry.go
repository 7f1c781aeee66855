package pgadvisoryotel

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

const scope = "github.com/pgadvisory/pgadvisory/otel"

// Options says where spans and metrics go, and what they tell. The zero Options is
// for OpenTelemetry's global providers.
type Options struct {
	TracerProvider trace.TracerProvider // nil means otel.GetTracerProvider()
	MeterProvider  metric.MeterProvider // nil means otel.GetMeterProvider()

	// Names puts the keys on spans as a person wrote them, and the texts of errors,
	// which name them. Without it, spans tell the namespace of a key and not its
	// name, which may be a customer's. Metrics never tell names.
	Names bool
}

// Telemetry makes spans and metrics of what it is told: it is an
// [xactlock.Tracer], and its method Session is a sessionlock.Options.Trace. One
// serves any number of Lockers.
type Telemetry struct {
	tracer     trace.Tracer
	wait, hold metric.Float64Histogram
	calls      metric.Int64Counter
	names      bool
}

// New returns a Telemetry. Its error is that of the MeterProvider.
func New(o Options) (*Telemetry, error) {
	if o.TracerProvider == nil {
		o.TracerProvider = otel.GetTracerProvider()
	}
	if o.MeterProvider == nil {
		o.MeterProvider = otel.GetMeterProvider()
	}
	meter := o.MeterProvider.Meter(scope)
	t := &Telemetry{tracer: o.TracerProvider.Tracer(scope), names: o.Names}
	var errs [3]error
	t.wait, errs[0] = meter.Float64Histogram("pgadvisory.lock.wait.duration", metric.WithUnit("s"),
		metric.WithDescription("Time from the call to the grant of the lock, or to the end of a call that got none."), buckets)
	t.hold, errs[1] = meter.Float64Histogram("pgadvisory.lock.hold.duration", metric.WithUnit("s"),
		metric.WithDescription("Time from the grant of the lock to its end."), buckets)
	t.calls, errs[2] = meter.Int64Counter("pgadvisory.lock.calls", metric.WithUnit("{call}"),
		metric.WithDescription("Calls that asked for a lock, by outcome."))
	return t, errors.Join(errs[:]...)
}

// buckets are those that OpenTelemetry advises for the durations of database
// operations, and two more: locks are waited for longer.
var buckets = metric.WithExplicitBucketBoundaries(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60)

// TraceStart is [xactlock.Tracer]'s.
func (t *Telemetry) TraceStart(ctx context.Context, c xactlock.Call) context.Context {
	return t.begin(ctx, c.Op, c.Keys)
}

// TraceGranted is [xactlock.Tracer]'s.
func (t *Telemetry) TraceGranted(ctx context.Context, e xactlock.Event) {
	if e.Op == "Lock" || e.Op == "TryLock" {
		return // how long the caller's transaction lasts is not known
	}
	t.granted(ctx, e.Op, e.Keys, e.Waited)
}

// TraceEnd is [xactlock.Tracer]'s.
func (t *Telemetry) TraceEnd(ctx context.Context, e xactlock.Event) {
	if e.Op == "Exec" && e.Outcome != xactlock.NotAcquired {
		// It was one message, or else the span has ended. One that has failed does not
		// tell whether it got as far as COMMIT.
		rename(ctx, name("lock exec", e.Keys))
	}
	ended := end{
		op: e.Op, keys: e.Keys, waited: e.Waited, held: e.Held, outcome: e.Outcome.String(),
		failure: failure(e.Err, e.Outcome != xactlock.NotAcquired, e.Outcome == xactlock.RolledBack || e.Outcome == xactlock.Failed || e.Outcome == xactlock.Unknown),
	}
	if e.Contended || asksFirst(ctx, e.Op) {
		ended.contended = attribute.Bool("pgadvisory.contended", e.Contended)
	}
	t.end(ctx, ended)
}

// asksFirst reports whether the call of ctx has asked for its lock before it waited,
// so that it is known whether another call was in the way. A Lock, and an Exec that
// goes in one message, may have waited on the server unseen.
func asksFirst(ctx context.Context, op string) bool {
	switch op {
	case "Lock", "TryLock":
		return false
	case "Exec":
		s := spansOf(ctx)
		return s != nil && s.held
	}
	return true
}

// begin begins the wait's span, and returns a ctx beneath it.
func (t *Telemetry) begin(ctx context.Context, op string, keys []hashkey.Key) context.Context {
	s := &spans{Context: ctx}
	waiting, _ := t.tracer.Start(ctx, name("lock wait", keys), trace.WithAttributes(t.attributes(op, keys)...))
	s.current.Store(&waiting)
	return s
}

// granted ends the wait's span and begins the hold's.
func (t *Telemetry) granted(ctx context.Context, op string, keys []hashkey.Key, waited time.Duration) {
	s := spansOf(ctx)
	if s == nil {
		return
	}
	outcome := attribute.String("pgadvisory.outcome", xactlock.Granted.String())
	t.wait.Record(s, waited.Seconds(), metric.WithAttributes(append(common(op, keys), outcome)...))
	span := trace.SpanFromContext(s)
	span.SetAttributes(outcome)
	span.End()
	s.held = true
	holding, _ := t.tracer.Start(s.Context, name("lock hold", keys), trace.WithAttributes(t.attributes(op, keys)...))
	s.current.Store(&holding)
}

// end is how a call, or a lock of sessionlock, has ended.
type end struct {
	op           string
	keys         []hashkey.Key
	waited, held time.Duration
	outcome      string
	contended    attribute.KeyValue // invalid where it is not known
	failure      error              // nil if it has not failed
}

func (t *Telemetry) end(ctx context.Context, e end) {
	s := spansOf(ctx)
	if s == nil {
		return
	}
	atEnd := []attribute.KeyValue{attribute.String("pgadvisory.outcome", e.outcome)}
	if e.failure != nil {
		atEnd = append(atEnd, attribute.String("error.type", errorType(e.failure)))
	}
	all := append(common(e.op, e.keys), atEnd...)
	if s.held {
		t.hold.Record(s, e.held.Seconds(), metric.WithAttributes(all...))
	} else {
		t.wait.Record(s, e.waited.Seconds(), metric.WithAttributes(all...))
	}
	t.calls.Add(s, 1, metric.WithAttributes(all...))

	span := trace.SpanFromContext(s)
	span.SetAttributes(atEnd...)
	if e.contended.Valid() {
		span.SetAttributes(e.contended)
	}
	if e.failure != nil {
		text := errorType(e.failure)
		if t.names { // the error names the keys
			text = e.failure.Error()
		}
		span.SetStatus(codes.Error, text)
	}
	span.End()
}

// attributes returns the attributes of a span.
func (t *Telemetry) attributes(op string, keys []hashkey.Key) []attribute.KeyValue {
	all := common(op, keys)
	if t.names {
		texts := make([]string, len(keys))
		for i, key := range keys {
			texts[i] = key.String()
		}
		all = append(all, attribute.StringSlice("pgadvisory.keys", texts))
	}
	return all
}

// common are the attributes of spans and metrics.
func common(op string, keys []hashkey.Key) []attribute.KeyValue {
	all := []attribute.KeyValue{
		attribute.String("db.system.name", "postgresql"),
		attribute.String("db.operation.name", op),
	}
	if ns := namespaces(keys); ns != "" {
		all = append(all, attribute.String("pgadvisory.namespace", ns))
	}
	return all
}

// namespaces returns the namespaces of keys, sorted, with commas between them.
func namespaces(keys []hashkey.Key) string {
	if len(keys) == 1 {
		return keys[0].Namespace()
	}
	var all []string
	for _, key := range keys {
		if ns := key.Namespace(); ns != "" {
			all = append(all, ns)
		}
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), ",")
}

// name returns the name of a span, which has few values.
func name(what string, keys []hashkey.Key) string {
	if ns := namespaces(keys); ns != "" {
		return what + " " + ns
	}
	return what
}
