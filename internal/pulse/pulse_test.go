package pulse_test

import (
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/pulse"
)

func TestInterval(t *testing.T) {
	if got := pulse.Interval(t.Context()); got != pulse.Default {
		t.Errorf("%v by default, want %v", got, pulse.Default)
	}
	often := pulse.With(t.Context(), time.Millisecond)
	if got := pulse.Interval(pulse.With(often, time.Second)); got != time.Second {
		t.Errorf("%v, want what was said last", got)
	}
}
