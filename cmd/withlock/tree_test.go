package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/inspect"
)

func TestTree(t *testing.T) {
	held := func(key int64, pid int32) inspect.Lock {
		return inspect.Lock{Key: hashkey.Int64(key), PID: pid, Granted: true}
	}
	waits := func(key int64, pid int32) inspect.Lock { return inspect.Lock{Key: hashkey.Int64(key), PID: pid} }
	for name, test := range map[string]struct {
		locks []inspect.Lock
		want  string
	}{
		"waiters":   {[]inspect.Lock{held(1, 10), waits(1, 11), waits(1, 12), held(2, 10)}, "1:10 .1:11 .1:12 2:10"},
		"readers":   {[]inspect.Lock{held(1, 10), held(1, 11), waits(1, 12)}, "1:10 1:11 .1:12"},
		"chain":     {[]inspect.Lock{held(1, 11), waits(1, 12), held(2, 10), waits(2, 11)}, "2:10 .2:11 ..1:11 ...1:12"},
		"circle":    {[]inspect.Lock{held(1, 10), waits(1, 11), held(2, 11), waits(2, 10)}, "1:10 .1:11 ..2:11 ...2:10"},
		"no holder": {[]inspect.Lock{waits(1, 11)}, ".1:11"},
	} {
		var got []string
		for _, n := range tree(test.locks) {
			got = append(got, fmt.Sprintf("%s%v:%d", strings.Repeat(".", n.depth), n.Key, n.PID))
		}
		if got := strings.Join(got, " "); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}
