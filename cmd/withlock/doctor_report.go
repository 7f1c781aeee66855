package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// A report is what a doctor says, line by line. A line has a mark, a subject, what
// was found, and below that what follows from it.
type report struct {
	out      io.Writer
	failed   error // of a write
	broken   []string
	sessions []string // what is broken for locks of sessions alone
}

// The marks of a line.
const (
	good    = "ok"   // as the packages want it
	notable = "note" // no promise is broken, but something follows
	bad     = "no"   // a promise is broken
	untried = "-"    // could not be tried
)

func (r *report) print(format string, args ...any) {
	if _, err := fmt.Fprintf(r.out, format, args...); err != nil && r.failed == nil {
		r.failed = err
	}
}

// line prints a line, and what follows.
func (r *report) line(mark, subject, found string, follows ...string) {
	r.print("%-4s  %-19s  %s\n", mark, subject, found)
	for _, f := range follows {
		r.print("%27s%s\n", "", f)
	}
}

// breaks prints a line of a promise that does not hold.
func (r *report) breaks(subject, found string, follows ...string) {
	r.broken = append(r.broken, subject)
	r.line(bad, subject, found, follows...)
}

// breaksSessions is breaks for what xactlock does not need.
func (r *report) breaksSessions(subject, found string, follows ...string) {
	r.sessions = append(r.sessions, subject)
	r.line(bad, subject, found, follows...)
}

// verdictOn returns why not all promises hold, or "".
func verdictOn(err error, broken []string) string {
	for _, known := range []struct {
		err  error
		says string
	}{
		{lockerr.ErrStandby, "refuses the server, because it is a standby"},
		{lockerr.ErrUnsupportedServer, "refuses the server, because of what it says that it is"},
		{sessionlock.ErrPooler, "refuses the connection, because of the pooler"},
	} {
		if errors.Is(err, known.err) {
			return known.says
		}
	}
	switch {
	case err != nil:
		return "does not work: " + err.Error()
	case len(broken) > 0:
		return "not all guarantees hold: see " + strings.Join(broken, ", ")
	}
	return ""
}

func plural(n int, of string) string {
	if n == 1 {
		return "1 " + of
	}
	return fmt.Sprintf("%d %ss", n, of)
}

func middle(times []time.Duration) time.Duration {
	slices.Sort(times)
	return times[len(times)/2]
}
