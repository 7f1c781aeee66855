package inspect_test

import (
	"testing"

	"github.com/pgadvisory/pgadvisory/inspect"
)

func TestClient(t *testing.T) {
	for _, test := range []struct {
		host string
		port int
		want string
	}{
		{"10.0.0.1", 41234, "10.0.0.1:41234"},
		{"fe80::1", 41234, "[fe80::1]:41234"},
		{"", -1, "[local]"},
		{"", 0, ""}, // hidden
	} {
		if got := inspect.Client(test.host, test.port); got != test.want {
			t.Errorf("Client(%q, %d) = %q, want %q", test.host, test.port, got, test.want)
		}
	}
}
