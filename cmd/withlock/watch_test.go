//go:build unix

package main

import (
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// --watch shows the waiters below their holder, again and again, until it is
// interrupted.
func TestWatch(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	holder := start(t, dsn, "job", "--", "sh", "-c", `echo $$ >parent; until test -e end; do sleep 0.05; done`)
	holder.pid(t, "parent")
	waiter := start(t, dsn, "job", "true")
	waits(t, openDB(t, dsn))
	table, lines := startLogged(t, dsn, "--list", "--watch"), startLogged(t, dsn, "--list", "--watch", "--json", "job")
	tree := regexp.MustCompile(`(?m)^20[-0-9: ]+\nKEY .+\n"job" .+\n  "job" .+exclusive .+$`)
	until(t, "the tree is shown twice", func() bool { return len(tree.FindAllString(table.logged(t), -1)) >= 2 })
	until(t, "there are two lines", func() bool { return strings.Count(lines.logged(t), "\n") >= 2 })
	for line := range strings.Lines(lines.logged(t)) {
		if !strings.HasPrefix(line, `[{"key":"659288139682042693","name":"job","mode":"exclusive","granted":true,`) {
			t.Errorf("line: %s", line)
		}
	}
	table.signal(t, syscall.SIGINT)
	table.ends(t, 128+int(syscall.SIGINT))
	lines.signal(t, syscall.SIGTERM)
	lines.ends(t, 128+int(syscall.SIGTERM))
	holder.touch(t, "end")
	holder.ends(t, 0)
	waiter.ends(t, 0)
}

// What --on-lost says runs when the lock is lost, beside the end of COMMAND, and
// not when it is not.
func TestOnLost(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	db := openDB(t, dsn)
	const onLost = `echo $$ >lost; echo "$WITHLOCK_NAME is lost"; touch told`
	p := startLogged(t, dsn, "--on-lost", onLost, "job", "--", "sh", "-c",
		`trap 'until test -e told; do sleep 0.05; done; exit 5' TERM; echo $$ >parent; while :; do sleep 0.05; done`)
	p.pid(t, "parent")
	terminate(t, db, backend(t, db))
	p.ends(t, exitLost)
	if got := p.logged(t); !strings.Contains(got, "\njob is lost\n") {
		t.Errorf("output: %s", got)
	}
	// One that does not end is killed.
	p = start(t, dsn, "--kill-after=100ms", "--on-lost", `echo $$ >lost; sleep 1000`, "job", "--", "sh", "-c", family)
	p.pid(t, "child")
	terminate(t, db, backend(t, db))
	p.ends(t, exitLost)
	if alive(p.pid(t, "lost")) {
		t.Error("withlock has ended, and what --on-lost says has not")
	}
	start(t, dsn, "--on-lost", "touch lost", "job", "test", "!", "-e", "lost").ends(t, 0)
}
