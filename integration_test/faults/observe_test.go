package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// Observe is told once of each call, and what agrees with what the call
// returned; want is a part of what is said where it is not.
func TestObservation(t *testing.T) {
	told := func(o xactlock.Outcome, err error) xactlock.Event {
		return xactlock.Event{Op: "WithTx", Keys: []hashkey.Key{keyOf(1)}, Outcome: o, Err: err}
	}
	events := func(e ...xactlock.Event) []xactlock.Event { return e }
	unknown := fmt.Errorf("%w: cut", xactlock.ErrCommitUnknown)
	refused := fmt.Errorf("%w: late", xactlock.ErrNotAcquired)
	broken := errors.New("cut")
	slow := told(xactlock.Committed, nil)
	slow.Queued, slow.Waited = 2*time.Second, time.Second
	other := told(xactlock.Committed, nil)
	other.Keys = []hashkey.Key{keyOf(2)}
	for name, test := range map[string]struct {
		verb string
		seen observation
		err  error
		want string
	}{
		"committed":                      {"WithTx", observation{events: events(told(xactlock.Committed, nil)), entered: true}, nil, ""},
		"committed, told otherwise":      {"WithTx", observation{events: events(told(xactlock.RolledBack, nil)), entered: true}, nil, "told rolled back"},
		"not told":                       {"WithTx", observation{entered: true}, nil, "told 0 times"},
		"told twice":                     {"WithTx", observation{events: events(slow, slow), entered: true}, nil, "told 2 times"},
		"told of another error":          {"WithTx", observation{events: events(told(xactlock.RolledBack, broken)), entered: true}, errOwn, "told of the error cut"},
		"told of another call":           {"TryWithTx", observation{events: events(told(xactlock.Committed, nil)), entered: true}, nil, "told of a WithTx"},
		"told of another key":            {"WithTx", observation{events: events(other), entered: true}, nil, "told of a WithTx of"},
		"more in the queue than waiting": {"WithTx", observation{events: events(slow), entered: true}, nil, "2s in the queue"},
		"unknown":                        {"WithTx", observation{events: events(told(xactlock.Unknown, unknown)), entered: true}, unknown, ""},
		"unknown as rolled back":         {"WithTx", observation{events: events(told(xactlock.RolledBack, unknown)), entered: true}, unknown, "told rolled back"},
		"not acquired":                   {"WithTx", observation{events: events(told(xactlock.NotAcquired, refused))}, refused, ""},
		"not acquired as failed":         {"WithTx", observation{events: events(told(xactlock.Failed, refused))}, refused, "told failed"},
		"failed before":                  {"WithTx", observation{events: events(told(xactlock.Failed, broken))}, broken, ""},
		"failed before as rolled back":   {"WithTx", observation{events: events(told(xactlock.RolledBack, broken))}, broken, "told rolled back"},
		"commit refused":                 {"WithTx", observation{events: events(told(xactlock.Failed, broken)), entered: true}, broken, ""},
		"the callback's error":           {"WithTx", observation{events: events(told(xactlock.RolledBack, errOwn)), entered: true, fnErr: errOwn}, errOwn, ""},
		"the callback's error as failed": {"WithTx", observation{events: events(told(xactlock.Failed, errOwn)), entered: true, fnErr: errOwn}, errOwn, "told failed"},
		"panicked":                       {"WithTx", observation{events: events(told(xactlock.RolledBack, nil)), entered: true, panicked: true}, nil, ""},
		"panicked, as committed":         {"WithTx", observation{events: events(told(xactlock.Committed, nil)), entered: true, panicked: true}, nil, "told committed"},
		"a transaction of one's own":     {"Lock", observation{}, nil, ""},
		"told of one's own":              {"Lock", observation{events: events(told(xactlock.Granted, nil))}, nil, "told of a Lock"},
	} {
		t.Run(name, func(t *testing.T) {
			got := test.seen.mistake(&call{Verb: test.verb, Keys: []int{1}}, test.err)
			if test.want == "" && got != "" || !strings.Contains(got, test.want) {
				t.Errorf("the mistake is %q, want %q", got, test.want)
			}
		})
	}
}
