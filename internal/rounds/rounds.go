// Package rounds looks at things once a second, as long as there are any. It is
// for what need not be noticed at once, and should cost next to nothing.
package rounds

import (
	"sync"
	"time"
)

// Every is how often everything is looked at.
const Every = time.Second

// Looker is what is looked at.
type Looker interface {
	// Look is called once a second. It should not take long: one look comes
	// after the other.
	Look()
}

// Rounds is things that are looked at by one goroutine, which starts every second
// as long as there are any. The zero Rounds is ready for use.
type Rounds struct {
	mu    sync.Mutex
	first *Place // guarded by mu
	due   bool   // guarded by mu: they will be looked at
}

// Place is where one thing stands in the rounds. The zero Place stands nowhere.
type Place struct {
	rounds         *Rounds
	looker         Looker
	next, previous *Place // guarded by rounds.mu
}

// Enter has l looked at, from its place, which stands nowhere yet.
func (r *Rounds) Enter(p *Place, l Looker) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.rounds, p.looker, p.next = r, l, r.first
	if p.next != nil {
		p.next.previous = p
	}
	r.first = p
	if !r.due {
		r.due = true
		time.AfterFunc(Every, r.look)
	}
}

// Leave takes the place out of the rounds, if it stands there. A look that has
// begun may still be under way, or about to come.
func (p *Place) Leave() {
	r := p.rounds
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case p.previous != nil:
		p.previous.next = p.next
	case r.first == p:
		r.first = p.next
	}
	if p.next != nil {
		p.next.previous = p.previous
	}
	p.rounds, p.next, p.previous = nil, nil, nil
}

func (r *Rounds) look() {
	for _, l := range r.current() {
		l.Look()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.due = r.first != nil; r.due {
		time.AfterFunc(Every, r.look)
	}
}

// current returns all that there is to look at.
func (r *Rounds) current() []Looker {
	r.mu.Lock()
	defer r.mu.Unlock()
	var current []Looker
	for p := r.first; p != nil; p = p.next {
		current = append(current, p.looker)
	}
	return current
}
