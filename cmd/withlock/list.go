package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/pgadvisory/pgadvisory/inspect"
)

// showList prints the locks of the database, or the locks of NAME: once, or each
// second until a signal ends it.
func (p *program) showList(ctx context.Context) error {
	locks, err := p.look(ctx)
	if err != nil {
		return unavailable(p.options, err)
	}
	if !p.watch {
		return p.write(p.format(locks))
	}
	signals := catchSignals()
	ctx, stop := interruptible(ctx, signals)
	defer stop()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		if err := p.write(p.page(locks, err)); err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
		if signal := (interrupted{}); errors.As(context.Cause(ctx), &signal) {
			return &failure{code: exitSignal + int(signal.signal), signal: signal.signal}
		} else if ctx.Err() != nil {
			return failuref(1, "%v", context.Cause(ctx))
		}
		locks, err = p.look(ctx)
	}
}

// look reads the locks.
func (p *program) look(ctx context.Context) ([]inspect.Lock, error) {
	ctx, cancel := toAnswer(ctx)
	defer cancel()
	if p.name == "" {
		locks, err := inspect.Locks(ctx, p.db)
		return known(locks), err
	}
	return inspect.Of(ctx, p.db, p.keys()...)
}

// page is what is shown at one time of several. On a terminal it takes the place
// of the one before.
func (p *program) page(locks []inspect.Lock, err error) []byte {
	var b bytes.Buffer
	switch {
	case err != nil && p.json:
		say(p.stderr, "no database: %s", reasonOf(err)) // there is no other way to say it
	case err != nil:
		fmt.Fprintf(&b, "%s  no database: %s\n", moment(time.Now()), reasonOf(err))
	case p.json:
		return p.format(locks)
	default:
		fmt.Fprintf(&b, "%s\n", moment(time.Now()))
		b.Write(p.format(locks))
	}
	if p.json {
		return b.Bytes()
	}
	if isTerminal(p.stdout) {
		const home, clearLine, clearRest = "\x1b[H", "\x1b[K", "\x1b[J"
		return []byte(home + strings.ReplaceAll(b.String(), "\n", clearLine+"\n") + clearRest)
	}
	b.WriteByte('\n')
	return b.Bytes()
}

func isTerminal(file *os.File) bool {
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func (p *program) write(b []byte) error {
	_, err := p.stdout.Write(b)
	switch {
	case errors.Is(err, syscall.EPIPE):
		return failuref(exitSignal+int(syscall.SIGPIPE), "")
	case err != nil:
		return failuref(1, "%v", err)
	}
	return nil
}

func (p *program) format(locks []inspect.Lock) []byte {
	var b bytes.Buffer
	if p.json {
		writeJSON(&b, locks)
	} else {
		writeTable(&b, locks)
	}
	return b.Bytes()
}

func writeTable(w io.Writer, locks []inspect.Lock) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "KEY\tMODE\tPID\tAPPLICATION\tCLIENT\tSINCE\tWAITING SINCE\tBLOCKED BY")
	for _, n := range tree(locks) {
		fmt.Fprintln(table, strings.Repeat("  ", n.depth)+strings.Join(row(n.Lock), "\t"))
	}
	_ = table.Flush() // to memory
}

// row is a line of the table. What is not known, or does not apply, is a dash.
func row(lock inspect.Lock) []string {
	const none = "-"
	since, waiting, pid := none, none, none
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
		lock.Key.String(), mode(lock), pid,
		readable(lock.Application), lock.Client, since, waiting, strings.Join(blockers, ","),
	}
	for i, cell := range cells {
		if cell == "" {
			cells[i] = none
		}
	}
	return cells
}

func mode(lock inspect.Lock) string {
	if lock.Shared {
		return "shared"
	}
	return "exclusive"
}

// jsonLock is a lock as --json shows it. Of what is not known there is nothing.
type jsonLock struct {
	Key          string     `json:"key"` // a string: not every reader has integers of 64 bits
	Name         string     `json:"name,omitempty"`
	Mode         string     `json:"mode"`
	Granted      bool       `json:"granted"`
	PID          int32      `json:"pid,omitempty"`
	Application  string     `json:"application,omitempty"`
	User         string     `json:"user,omitempty"`
	Client       string     `json:"client,omitempty"`
	State        string     `json:"state,omitempty"`
	Since        *time.Time `json:"since,omitempty"`
	WaitingSince *time.Time `json:"waiting_since,omitempty"`
	BlockedBy    []int32    `json:"blocked_by,omitempty"`
}

// writeJSON writes an array of objects on one line.
func writeJSON(w io.Writer, locks []inspect.Lock) {
	all := []jsonLock{}
	for _, lock := range locks {
		all = append(all, jsonLock{
			Key: keyNumber(lock.Key), Name: lock.Key.Name(), Mode: mode(lock), Granted: lock.Granted,
			PID: lock.PID, Application: readable(lock.Application), User: lock.User, Client: lock.Client, State: lock.State,
			Since: timeOrNil(lock.Since), WaitingSince: timeOrNil(lock.WaitStart), BlockedBy: lock.BlockedBy,
		})
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(all) // to memory, of what can be encoded
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
