package testneed

import (
	"os"
	"os/signal"
	"syscall"
)

// Signals lets the processes that the tests start have the default actions of
// these signals, where the parent of the tests has them ignored, as nohup has, and
// a shell for what runs in the background: a process inherits that.
//
// It is for TestMain.
func Signals() {
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s) // what is caught is not inherited
		}
	}
}
