//go:build unix

package supervise

import (
	"syscall"
	"testing"
	"time"
)

// links returns both ends of a link.
func links(t *testing.T) (one, other *link) {
	t.Helper()
	one, descriptor, err := newLink()
	if err != nil {
		t.Fatal(err)
	}
	other = linkAt(descriptor)
	t.Cleanup(func() { one.close(); other.close() })
	return one, other
}

// A command can end before the guard has heard that it was executed. The caller is
// told of both, in this order, or why it was not executed.
func TestQuickCommand(t *testing.T) {
	for name, test := range map[string]struct {
		errno int
		want  int
	}{
		"executed":     {want: running},
		"not executed": {int(syscall.ENOENT), failed},
	} {
		t.Run(name, func(t *testing.T) {
			caller, toCaller := links(t)
			gate, command := links(t)
			g := &starter{caller: toCaller, gate: gate}
			go g.open()
			if kind, _, err := command.receive(); kind != openGate || err != nil {
				t.Fatalf("the command gets %d, %v", kind, err)
			}
			over := make(chan struct{})
			go func() {
				defer close(over)
				g.over()
			}()
			select {
			case <-over:
				t.Error("the caller is told that the work is over, before it knows that there is any")
			case <-time.After(20 * time.Millisecond): // in which it must not happen
			}
			if test.errno != 0 {
				command.send(failed, test.errno)
			}
			command.close()
			for _, want := range []int{test.want, workOver} {
				if kind, value, err := caller.receive(); kind != want || err != nil || want == failed && value != test.errno {
					t.Fatalf("the caller is told %d %d, %v, want %d", kind, value, err, want)
				}
			}
		})
	}
}
