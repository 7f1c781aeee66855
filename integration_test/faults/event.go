package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// An event is one line of a log.
type event struct {
	At   int64  `json:"at"`
	What string `json:"what"`
	Op   int64  `json:"op,omitempty"`

	Call *call `json:"call,omitempty"` // of begin

	Key     int    `json:"key,omitempty"`     // of write, read, token, violation
	N       int64  `json:"n,omitempty"`       // of write: what is written; of read: what was read; of stall: the worker's number
	Token   uint64 `json:"token,omitempty"`   // of token
	PID     int    `json:"pid,omitempty"`     // of session, ended
	Until   int64  `json:"until,omitempty"`   // of stall
	Outcome string `json:"outcome,omitempty"` // of end
	Text    string `json:"text,omitempty"`    // an error, a violation, the name of a fault
}

// What an event can be.
const (
	evBegin     = "begin"     // before the call
	evEnter     = "enter"     // the callback runs
	evSession   = "session"   // the server's pid of the session that has the lock
	evToken     = "token"     // the holder has a fencing token
	evRead      = "read"      // the holder has read a register
	evWrite     = "write"     // the holder is about to write to a register
	evHeld      = "held"      // At is before a statement that the session with the lock has answered
	evRefused   = "refused"   // a fenced write was refused, for a larger token
	evTold      = "told"      // the callback was told that the lock is lost
	evLeave     = "leave"     // the callback returns
	evEnd       = "end"       // the call has returned
	evStall     = "stall"     // the process did not run from At until Until
	evViolation = "violation" // what must not be, seen by the worker itself
	evFault     = "fault"     // Text is its kind
	evEnded     = "ended"     // the session with this pid was ended before At, and At is after its end
)

// How a call can end. A call whose process was killed has no end.
const (
	committed   = "committed"    // or, of a session's lock: held until it was given back
	rolledBack  = "rolled back"  // the callback's own error
	notAcquired = "not acquired" // the callback did not run
	lost        = "lost"
	failed      = "failed" // an error of the server's or the connection's, and nothing is committed
	unknown     = "unknown"
)

// A journal is the log of one process. Each event is one write to a file: it
// is there whatever becomes of the process in the next moment.
type journal struct {
	mu   sync.Mutex
	file *os.File // guarded by mu
}

func openJournal(dir, name string) (*journal, error) {
	file, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	return &journal{file: file}, nil
}

// add writes an event. It panics where the log cannot be written, as without it
// nothing can be checked.
func (j *journal) add(e event) {
	if e.At == 0 {
		e.At = clock()
	}
	line, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := j.file.Write(append(line, '\n')); err != nil {
		panic(err)
	}
}

func (j *journal) violation(op int64, key int, format string, args ...any) {
	j.add(event{What: evViolation, Op: op, Key: key, Text: fmt.Sprintf(format, args...)})
}

func (j *journal) close() error { return j.file.Close() }

// readJournals calls each for every event of the logs in dir, in the order of
// each log.
func readJournals(dir string, each func(e event)) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := readJournal(name, each); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func readJournal(name string, each func(e event)) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewReader(file)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil // a line without an end was being written when its process was killed, or is just now
		}
		if err != nil {
			return err
		}
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			return err
		}
		each(e)
	}
}
