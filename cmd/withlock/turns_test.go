//go:build unix

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Of copies that start together, one at a time runs its command.
func TestTurns(t *testing.T) {
	t.Parallel()
	rounds, copies := 50, 4
	if testing.Short() {
		rounds = 5
	}
	dsn := newDatabase(t)
	dir := t.TempDir()
	for round := range rounds {
		var running []*process
		for i := range copies {
			turn := fmt.Sprint(round, ".", i)
			running = append(running, startIn(t, dir, dsn, "job", "--", "sh", "-c",
				`echo start "$1" >>turns; sleep 0.005; echo end "$1" >>turns`, "sh", turn))
		}
		for _, p := range running {
			p.ends(t, 0)
		}
	}
	checkTurns(t, filepath.Join(dir, "turns"), rounds*copies)
}

// checkTurns checks that a file has the lines of turns that never overlap.
func checkTurns(t *testing.T, file string, want int) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")
	if len(lines) != 2*want {
		t.Fatalf("%d lines, want %d", len(lines), 2*want)
	}
	for i := 0; i < len(lines); i += 2 {
		start, isStart := strings.CutPrefix(lines[i], "start ")
		end, isEnd := strings.CutPrefix(lines[i+1], "end ")
		if !isStart || !isEnd || start != end {
			t.Fatalf("turns overlap: %q, %q", lines[i], lines[i+1])
		}
	}
}
