package main

import (
	"sync"
	"time"
)

// pauses keeps alarms for whoever needs one for a moment: two thousand
// goroutines take turns, but only the one that has its turn pauses.
type pauses struct {
	mu   sync.Mutex
	free []*alarm
}

// pause waits for d, to within some 0.1 ms.
func (p *pauses) pause(d time.Duration) error {
	if d == 0 {
		return nil
	}
	end := time.Now().Add(d)
	a, err := p.take()
	if err != nil {
		return err
	}
	if err := a.until(end); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, a)
	return nil
}

func (p *pauses) take() (*alarm, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.free) - 1
	if last < 0 {
		return newAlarm()
	}
	a := p.free[last]
	p.free = p.free[:last]
	return a, nil
}
