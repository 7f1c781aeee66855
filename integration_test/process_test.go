package integration_test

import (
	"context"
	"fmt"
	"os"
	osexec "os/exec"
	"strings"
	"testing"
)

// processes are what this test binary can be as a process of its own, for
// tests of what goes on between processes.
var processes = map[string]func(args []string) error{}

const processVariable = "PGADVISORY_TEST_PROCESS"

// runProcess runs this test binary as one of processes, to its end.
func runProcess(program string, args ...string) error {
	return runKillableProcess(context.Background(), program, args...)
}

// runKillableProcess is runProcess for a process that is killed when ctx ends,
// which is no error.
func runKillableProcess(ctx context.Context, program string, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	process := osexec.CommandContext(ctx, self, "-test.run=^TestAsProcess$", "-test.count=1")
	process.Env = append(os.Environ(), processVariable+"="+strings.Join(append([]string{program}, args...), "\n"))
	if out, err := process.CombinedOutput(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("process %q: %w\n%s", program, err, out)
	}
	return nil
}

// TestAsProcess is what such a process runs.
func TestAsProcess(t *testing.T) {
	value, ok := os.LookupEnv(processVariable)
	if !ok {
		t.Skip("runs in a process of its own, for other tests")
	}
	args := strings.Split(value, "\n")
	if err := processes[args[0]](args[1:]); err != nil {
		t.Fatal(err)
	}
}
