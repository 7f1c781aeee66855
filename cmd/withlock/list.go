package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/pgadvisory/pgadvisory/inspect"
)

// list prints the locks of the database, or those of NAME.
func (p *program) list(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, errNoAnswer)
	defer cancel()
	var locks []inspect.Lock
	var err error
	if p.name == "" {
		locks, err = inspect.Locks(ctx, p.db)
	} else {
		locks, err = inspect.Of(ctx, p.db, p.key)
	}
	if err != nil {
		return unavailable(p.options, p.env, err)
	}
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "KEY\tMODE\tPID\tAPPLICATION\tCLIENT\tSINCE\tWAITING SINCE\tBLOCKED BY")
	for _, lock := range locks {
		fmt.Fprintln(table, strings.Join(row(lock), "\t"))
	}
	if err := table.Flush(); errors.Is(err, syscall.EPIPE) {
		return failuref(exitSignal+int(syscall.SIGPIPE), "")
	} else if err != nil {
		return failuref(1, "%v", err)
	}
	return nil
}

// row is a line of the table. What is not known, or does not apply, is a dash.
func row(lock inspect.Lock) []string {
	const none = "-"
	mode, since, waiting, pid := "exclusive", none, none, none
	if lock.Shared {
		mode = "shared"
	}
	if !lock.Since.IsZero() {
		since = moment(lock.Since)
	}
	switch {
	case lock.Granted:
	case lock.WaitStart.IsZero():
		waiting = "unknown"
	default:
		waiting = moment(lock.WaitStart)
	}
	if lock.PID != 0 {
		pid = strconv.Itoa(int(lock.PID))
	}
	var blockers []string
	for _, blocker := range lock.BlockedBy {
		blockers = append(blockers, strconv.Itoa(int(blocker)))
	}
	cells := []string{
		nameOf(lock.Key, lock.Application).String(), mode, pid,
		lock.Application, lock.Client, since, waiting, strings.Join(blockers, ","),
	}
	for i, cell := range cells {
		if cell == "" {
			cells[i] = none
		}
	}
	return cells
}
