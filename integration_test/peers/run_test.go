package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// tinyPlan measures everything, and nothing well.
func tinyPlan() plan {
	moment := timing{1, time.Millisecond}
	return plan{
		name:        "tiny",
		delays:      []time.Duration{0, shortDelay},
		uncontended: moment,
		undelayed:   1,
		workers:     []int{1, 8},
		hot:         timing{1, 150 * time.Millisecond},
		goroutines:  []int{2, 8},
		holds:       []time.Duration{0, hold},
		crowd:       timing{1, 500 * time.Millisecond}, // in which a probe gets through on a busy machine too
		crowdOf:     30,
		hotKeys:     []int{1, 5, 12},
		exec:        moment,
		execOf:      4,
		growth:      []int{1, 20},
		allocRounds: 1,
		allocTurns:  10,
		sessions:    sessionPlan{handOvers: 2, turns: moment, timeouts: 2, shareable: 10},
	}
}

func TestTinyRun(t *testing.T) {
	o := options{plan: tinyPlan(), docs: filepath.Join(t.TempDir(), "numbers.md")}
	var report, progress bytes.Buffer
	if _, err := o.execute(t.Context(), &report, &progress); err != nil {
		t.Fatalf("%v\n%s", err, &progress)
	}
	document, err := os.ReadFile(o.docs)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"report": report.String(), "document": string(document)} {
		if strings.Contains(strings.ToLower(text), "not measured") || strings.Contains(text, "NaN") {
			t.Errorf("the %s lacks numbers:\n%s", name, text)
		}
	}
	plots, err := filepath.Glob(filepath.Join(filepath.Dir(o.docs), "numbers", "*.svg"))
	if err != nil || len(plots) != 6 {
		t.Errorf("plots are %v, %v; want 6", plots, err)
	}
	for _, plot := range plots {
		if link := "(numbers/" + filepath.Base(plot) + ")"; !strings.Contains(string(document), link) {
			t.Errorf("the document does not show %s", link)
		}
	}
}

// The bare driver is what the library is measured against: it must not send
// anything else, but the Describe that pgconn adds to each statement.
func TestBareDriverSendsWhatWithTxSends(t *testing.T) {
	s, err := startServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}()
	b := &bench{server: s}
	ours := listen(t, b, ourWithTx())
	bare := listen(t, b, bareBytes())
	if diff := cmp.Diff(ours, bare); diff != "" {
		t.Errorf("bare bytes differ from those of WithTx (-want +got):\n%s", diff)
	}
	driver := listen(t, b, bareDriver())
	for i, message := range driver {
		driver[i] = withoutDescribe(message)
	}
	if diff := cmp.Diff(ours, driver); diff != "" {
		t.Errorf("the bare driver's messages differ from those of WithTx (-want +got):\n%s", diff)
	}
}

// withoutDescribe returns what a client sends less each Describe in it.
func withoutDescribe(message []byte) (left []byte) {
	const describe = 'D'
	for len(message) > 0 {
		size := 1 + binary.BigEndian.Uint32(message[1:])
		if message[0] != describe {
			left = append(left, message[:size]...)
		}
		message = message[size:]
	}
	return left
}

func listen(t *testing.T, b *bench, c competitor) [][]byte {
	t.Helper()
	heard, err := b.listen(t.Context(), c, turn{key: 42})
	if err != nil {
		t.Fatal(err)
	}
	return heard
}

func TestArguments(t *testing.T) {
	for args, want := range map[string]struct {
		code int
		text string
	}{
		"-h":            {0, "-short"},
		"-only nothing": {2, `no part "nothing"`},
		"-only hot now": {2, `unexpected argument "now"`},
		"-loud":         {2, "not defined"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(context.Background(), strings.Fields(args), &stdout, &stderr); code != want.code {
			t.Errorf("peers %s: exit code %d, want %d", args, code, want.code)
		}
		if !strings.Contains(stderr.String(), want.text) {
			t.Errorf("peers %s says %q, want %q in it", args, &stderr, want.text)
		}
	}
}

func TestStrict(t *testing.T) {
	for _, test := range []struct {
		strict bool
		broken int
		err    error
		want   int
	}{
		{false, 0, nil, 0},
		{false, 3, nil, 0},
		{true, 0, nil, 0},
		{true, 3, nil, 1},
		{false, 0, errors.New("no server"), 1},
	} {
		o := options{strict: test.strict}
		if code := o.code(test.broken, test.err, io.Discard); code != test.want {
			t.Errorf("strict %t, %d broken, %v: exit code %d, want %d", test.strict, test.broken, test.err, code, test.want)
		}
	}
}
