package ecosystem

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// lockMetrics returns an Options.Observe that fills metrics of reg. Their labels
// have few values: the namespace of a key, and never its name.
func lockMetrics(reg prometheus.Registerer) func(xactlock.Event) {
	labels := []string{"op", "namespace", "outcome"}
	waited := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "pgadvisory_lock_wait_seconds", Help: "Time from the call to the grant of the lock, or to the end of a call that got none.",
		Buckets: []float64{.001, .005, .01, .05, .1, .5, 1, 5, 10, 30, 60},
	}, labels)
	held := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "pgadvisory_lock_hold_seconds", Help: "Time from the grant of the lock to the end of the transaction.",
		Buckets: []float64{.001, .005, .01, .05, .1, .5, 1, 5, 10, 30, 60},
	}, labels)
	reg.MustRegister(waited, held)
	return func(e xactlock.Event) {
		namespace := ""
		if len(e.Keys) > 0 {
			namespace = e.Keys[0].Namespace()
		}
		values := []string{e.Op, namespace, e.Outcome.String()}
		waited.WithLabelValues(values...).Observe(e.Waited.Seconds())
		if e.Held > 0 { // it was granted
			held.WithLabelValues(values...).Observe(e.Held.Seconds())
		}
	}
}

// The recipe counts calls by what became of them.
func TestPrometheus(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	db := openPgx(t, pgtest.New(t).Scratch(t))
	l := xactlock.New(db).With(xactlock.Options{Observe: lockMetrics(reg)})
	key := hashkey.Namespace("accounts").ID(42)
	for _, result := range []error{nil, nil, errExpected} {
		err := l.WithTx(t.Context(), key, func(ctx context.Context, tx *sql.Tx) error {
			refused := l.TryWithTx(context.Background(), key, unreachable(t))
			if !errors.Is(refused, xactlock.ErrNotAcquired) {
				t.Errorf("got %v", refused)
			}
			return result
		})
		if err != result {
			t.Error(err)
		}
	}
	counts := map[string]uint64{}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, label.GetValue())
			}
			counts[family.GetName()+" "+strings.Join(labels, " ")] = metric.GetHistogram().GetSampleCount()
		}
	}
	for of, want := range map[string]uint64{
		"pgadvisory_lock_wait_seconds accounts WithTx committed":       2,
		"pgadvisory_lock_wait_seconds accounts WithTx rolled back":     1,
		"pgadvisory_lock_wait_seconds accounts TryWithTx not acquired": 3,
		"pgadvisory_lock_hold_seconds accounts WithTx committed":       2,
		"pgadvisory_lock_hold_seconds accounts WithTx rolled back":     1,
	} {
		if counts[of] != want {
			t.Errorf("%s: %d, want %d; all are %v", of, counts[of], want, counts)
		}
	}
	if len(counts) != 5 {
		t.Errorf("there are others: %v", counts)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}
