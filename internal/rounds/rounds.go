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
	first *Place    // guarded by mu
	next  time.Time // guarded by mu: when they are looked at next; zero: not at all
	round int       // guarded by mu: the number of that look
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
	if r.next.IsZero() || time.Since(r.next) > Every {
		r.arm()
	}
}

// arm sets the time of the next look. One that is late does not come any more: its
// timer was of a bubble of testing/synctest, and has ended with it. The rounds are
// locked.
func (r *Rounds) arm() {
	r.next = time.Now().Add(Every)
	r.round++
	round := r.round
	time.AfterFunc(Every, func() { r.look(round) })
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

func (r *Rounds) look(round int) {
	for _, l := range r.current(round) {
		l.Look()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case round != r.round:
	case r.first == nil:
		r.next = time.Time{}
	default:
		r.arm()
	}
}

// current returns all that there is to look at in a round, unless another has taken
// its place.
func (r *Rounds) current(round int) []Looker {
	r.mu.Lock()
	defer r.mu.Unlock()
	var current []Looker
	if round != r.round {
		return nil
	}
	for p := r.first; p != nil; p = p.next {
		current = append(current, p.looker)
	}
	return current
}
