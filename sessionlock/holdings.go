package sessionlock

import (
	"errors"
	"sync"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
)

// holdings are the locks that a session has, as far as one of them could be in
// another's way, or be lost with another. They live as long as the session, and are
// for its user.
type holdings struct {
	mu    sync.Mutex
	locks map[losable]bool // guarded by mu

	pooled  bool                 // a lock goes back to the pool with the session
	callers map[hashkey.Key]bool // of LockConn
	saved   []locksql.Setting    // the settings as they were before the first of callers
}

// losable is a lock that can be told that it is lost.
type losable interface{ lose(loss error) }

const holdingsKey = "pgadvisory/sessionlock"

// holdingsOf returns the holdings of s.
func holdingsOf(s *pgsession.Session) *holdings {
	data := s.PG().CustomData()
	h, ok := data[holdingsKey].(*holdings)
	if !ok {
		h = &holdings{callers: make(map[hashkey.Key]bool), locks: make(map[losable]bool)}
		data[holdingsKey] = h
		s.BeforeDiscard = h.lose // a holder must be told before the next one comes
	}
	return h
}

var (
	errPooled = errors.New("sessionlock: the connection is that of another lock, and goes back to the pool with it")
	errHeld   = errors.New("sessionlock: the connection has locked the key already")
)

// refuse returns why LockConn cannot have key on the session: the server would
// grant it, and one unlock would not free it, or free more.
func (h *holdings) refuse(key hashkey.Key) error {
	switch {
	case h.pooled:
		return about(key, errPooled)
	case h.callers[bare(key)]:
		return about(key, errHeld)
	}
	return nil
}

// keep notes a lock that is lost with the session.
func (h *holdings) keep(k losable) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.locks[k] = true
}

// drop notes that k is lost, or about to be given back, and reports whether it was
// kept until now.
func (h *holdings) drop(k losable) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	kept := h.locks[k]
	delete(h.locks, k)
	return kept
}

// lose tells all locks of the session that they are lost. It may be called beside the
// session's user.
func (h *holdings) lose(loss error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for k := range h.locks {
		k.lose(loss)
	}
}

// add notes a lock that is granted, and goes back to the pool with its session.
func (h *holdings) add() { h.pooled = true }

// remove notes that it is given back.
func (h *holdings) remove() { h.pooled = false }

// addCallers notes the lock of LockConn that is granted. saved are the settings as
// they were before it.
func (h *holdings) addCallers(key hashkey.Key, saved []locksql.Setting) {
	if len(h.callers) == 0 {
		h.saved = saved
	}
	h.callers[bare(key)] = true
}

// removeCallers notes that the lock of LockConn is given back, and reports whether
// it was the last.
func (h *holdings) removeCallers(key hashkey.Key) (last bool) {
	delete(h.callers, bare(key))
	return len(h.callers) == 0
}
