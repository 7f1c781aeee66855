package ptytest_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/pgadvisory/pgadvisory/internal/ptytest"
	"github.com/pgadvisory/pgadvisory/internal/testneed"
)

func TestMain(m *testing.M) {
	testneed.Signals()
	os.Exit(m.Run())
}

// The program has the terminal: it reads what is typed, and Ctrl-C ends it.
func TestTerminal(t *testing.T) {
	terminal := ptytest.Start(t, exec.Command("sh", "-c", `trap 'echo interrupted' INT; read line; echo "read $line"; read line`))
	if got, want := terminal.Foreground(t), terminal.Cmd.Process.Pid; got != want {
		t.Errorf("group %d is in the foreground, want %d", got, want)
	}
	terminal.Type(t, "hello\n")
	terminal.Await(t, "read hello", 1)
	terminal.Type(t, "\x03")
	terminal.Await(t, "interrupted", 1)
}
