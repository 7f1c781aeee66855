package sessionlock

import "time"

// answerWithin returns how long a question has for its answer, where one is put once
// in a pulse: half of it, but a second where there is one, for a server that is far
// away.
func answerWithin(pulse time.Duration) time.Duration {
	return min(pulse, max(pulse/2, time.Second))
}

// rhythm is when a session that holds locks is looked at, and when it is asked.
type rhythm struct{ looks, asks *time.Ticker }

// newRhythm returns the rhythm of a watch, which stops it.
func newRhythm(look, ask time.Duration) rhythm {
	return rhythm{time.NewTicker(look), time.NewTicker(ask)}
}

func (r rhythm) stop() {
	r.looks.Stop()
	r.asks.Stop()
}

// next waits for the next look, and reports whether the session is to be asked as
// well. It is not ok when the watch is over.
func (r rhythm) next(over <-chan struct{}) (ask, ok bool) {
	select {
	case <-over:
		return false, false
	case <-r.looks.C:
		return false, true
	case <-r.asks.C:
		return true, true
	}
}
