package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pgadvisory/pgadvisory/inspect"
)

// conflict returns one line that says which sessions hold the lock.
func (p *program) conflict(ctx context.Context) string {
	ctx, cancel := toAnswer(ctx)
	defer cancel()
	locks, err := inspect.Of(ctx, p.db, p.keys()...)
	if err != nil {
		return fmt.Sprintf("%s is locked; by which session is not known: %v", p.label(), err)
	}
	var holders []string
	for _, lock := range locks {
		if lock.Granted {
			holders = append(holders, holder(lock))
		}
	}
	what := p.label()
	if p.slots > 1 {
		what = fmt.Sprintf("each of %d slots of %s", p.slots, p.label())
	}
	return what + " " + lockedBy(holders)
}

func lockedBy(holders []string) string {
	const most = 3 // so many readers may share a lock that no line takes them
	more := ""
	if n := len(holders) - most; n > 0 {
		holders, more = holders[:most], fmt.Sprintf(" and %d more", n)
	}
	if len(holders) == 0 {
		return "was locked until a moment ago"
	}
	return "is locked by " + strings.Join(holders, ", ") + more
}

// holder describes one that holds a lock, with as much as this role may know.
func holder(lock inspect.Lock) string {
	if lock.PID == 0 {
		return "a prepared transaction"
	}
	var details []string
	if lock.Application != "" {
		details = append(details, fmt.Sprintf("application %q", readable(lock.Application)))
	}
	if lock.Client != "" {
		details = append(details, lock.Client)
	}
	if lock.User != "" && lock.Client == "" {
		details = append(details, "user "+lock.User)
	}
	text := fmt.Sprintf("pid %d", lock.PID)
	if len(details) > 0 {
		text += " (" + strings.Join(details, ", ") + ")"
	}
	if !lock.Since.IsZero() {
		text += " since " + moment(lock.Since)
	}
	return text
}

// moment writes a time in the zone of this machine.
func moment(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }
