package pgadvisoryotel_test

import (
	"context"
	"database/sql"
	"os"
	"testing"
	"time"

	"github.com/XSAM/otelsql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	pgadvisoryotel "github.com/pgadvisory/pgadvisory/otel"
)

func TestMain(m *testing.M) {
	os.Exit(pgtest.Main(m, func(*pgtest.Server) error {
		return goleak.Find(
			// xactlock keeps a database for the transactions that it adopts.
			goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"),
		)
	}))
}

// setting is a pool of an instrumented driver, and what OpenTelemetry is told.
type setting struct {
	db        *sql.DB
	telemetry *pgadvisoryotel.Telemetry
	tracer    trace.Tracer
	spans     *tracetest.SpanRecorder
	reader    *sdkmetric.ManualReader
}

func newSetting(t *testing.T, o pgadvisoryotel.Options) *setting {
	t.Helper()
	s := &setting{spans: tracetest.NewSpanRecorder(), reader: sdkmetric.NewManualReader()}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(s.spans))
	o.TracerProvider, o.MeterProvider = provider, sdkmetric.NewMeterProvider(sdkmetric.WithReader(s.reader))
	s.tracer = provider.Tracer("test")
	var err error
	if s.telemetry, err = pgadvisoryotel.New(o); err != nil {
		t.Fatal(err)
	}
	config, err := pgx.ParseConfig(pgtest.New(t).Scratch(t))
	if err != nil {
		t.Fatal(err)
	}
	s.db = otelsql.OpenDB(stdlib.GetConnector(*config), otelsql.WithTracerProvider(provider))
	t.Cleanup(func() {
		if err := s.db.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// under calls f with the ctx of a span of the caller's, and returns the spans of
// the library that have ended meanwhile, which must be the caller's children.
func (s *setting) under(t *testing.T, f func(ctx context.Context)) []sdktrace.ReadOnlySpan {
	t.Helper()
	before := len(s.spans.Ended())
	ctx, caller := s.tracer.Start(t.Context(), "caller")
	f(ctx)
	caller.End()
	var ours []sdktrace.ReadOnlySpan
	for _, span := range s.spans.Ended()[before:] {
		if span.InstrumentationScope().Name != "github.com/pgadvisory/pgadvisory/otel" {
			continue
		}
		ours = append(ours, span)
		if span.Parent().SpanID() != caller.SpanContext().SpanID() {
			t.Errorf("%q is not the caller's child", span.Name())
		}
	}
	return ours
}

// statements returns how many spans that others have begun are children of span.
func (s *setting) statements(span sdktrace.ReadOnlySpan) (n int) {
	for _, other := range s.spans.Ended() {
		if other.Parent().SpanID() == span.SpanContext().SpanID() {
			n++
		}
	}
	return n
}

// attributes returns a span's attributes as text.
func attributes(all []attribute.KeyValue) map[string]string {
	texts := map[string]string{}
	for _, a := range all {
		texts[string(a.Key)] = a.Value.String()
	}
	return texts
}

// metrics returns the metrics so far by their names.
func (s *setting) metrics(t *testing.T) map[string]metricdata.Aggregation {
	t.Helper()
	var all metricdata.ResourceMetrics
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.reader.Collect(ctx, &all); err != nil {
		t.Fatal(err)
	}
	named := map[string]metricdata.Aggregation{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			named[m.Name] = m.Data
		}
	}
	return named
}
