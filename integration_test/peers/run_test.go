package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tinyPlan measures everything, and nothing well.
func tinyPlan() plan {
	moment := timing{1, 10 * time.Millisecond}
	return plan{
		name:        "tiny",
		delays:      []time.Duration{0, shortDelay},
		uncontended: moment,
		workers:     []int{1, 8},
		hot:         timing{1, 50 * time.Millisecond},
		goroutines:  []int{2, 30},
		holds:       []time.Duration{0, hold},
		crowd:       timing{1, 50 * time.Millisecond},
		crowdOf:     30,
		hotKeys:     []int{1, 5, 12},
		exec:        moment,
		growth:      []int{1, 20},
		allocRounds: 1,
		allocTurns:  10,
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
// anything else.
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
	bare := listen(t, b, bareDriver())
	ours := listen(t, b, ourWithTx())
	if !bytes.Equal(bytes.Join(bare, nil), bytes.Join(ours, nil)) {
		t.Errorf("the bare driver sends\n%q\nand WithTx\n%q", bare, ours)
	}
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
