package bounds_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/bounds"
)

func TestLongest(t *testing.T) {
	const never, most = time.Duration(0), time.Duration(math.MaxInt64)
	for _, test := range []struct{ maxHold, grace, want time.Duration }{
		{0, 0, never},
		{0, time.Minute, never},
		{time.Minute, 0, time.Minute + time.Second},
		{time.Minute, time.Hour, time.Hour + time.Minute},
		{most, 0, most},
		{most - time.Second, time.Second, most},
		{1, most, most},
	} {
		if got := bounds.Longest(test.maxHold, test.grace); got != test.want {
			t.Errorf("MaxHold %v, Grace %v: %v, want %v", test.maxHold, test.grace, got, test.want)
		}
	}
}

func TestCheck(t *testing.T) {
	if err := (bounds.Times{{"A", 0}, {"B", time.Hour}}).Check("p"); err != nil {
		t.Error(err)
	}
	err := bounds.Times{{"A", 0}, {"B", -time.Second}, {"C", -1}}.Check("p")
	if err == nil || !strings.HasPrefix(err.Error(), "p: ") || !strings.Contains(err.Error(), "Options.B") || !strings.Contains(err.Error(), "-1s") {
		t.Errorf("got %v, want an error that names B and -1s", err)
	}
}
