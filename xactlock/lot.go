package xactlock

import (
	"database/sql"
	"sync"
	"sync/atomic"
	"time"
)

// database/sql starts a goroutine for each *sql.Tx, which waits for its end.
// That it starts, and that it is woken, has the Go scheduler look for an idle
// processor to run it on, twice for each call. Where all are busy, with other
// calls or with the server, that costs as much as a message. So while there are
// several calls at once, transactions are made and ended in lots.
//
// Each is for one call all the same, and over when that is: what is put off is
// only that database/sql hears of it.

// transaction is a *sql.Tx of the adopter.
type transaction struct {
	*sql.Tx
	adopted adopted
}

// transactions is for the whole process, as the adopter is.
var transactions lots

type lots struct {
	calls atomic.Int32 // that are on a connection

	mu     sync.Mutex
	size   int            // of a lot
	made   time.Time      // when the last one was
	making bool           // somebody makes a lot
	spare  []transaction  // nobody has used them
	spent  []*transaction // database/sql has not heard of their end
	timer  *time.Timer    // set while there may be some of either
	used   bool           // since the timer was set
}

const (
	largestLot = 16
	quickLot   = 10 * time.Millisecond // a lot that is used up sooner is followed by a larger one
	keepLot    = 50 * time.Millisecond // what nobody uses for longer is ended
)

// take returns a transaction that nobody has used.
func (l *lots) take() *transaction {
	l.mu.Lock()
	l.used = true
	if len(l.spare) > 0 {
		t := &l.spare[0]
		l.spare = l.spare[1:]
		l.mu.Unlock()
		return t
	}
	n := l.nextSize()
	l.mu.Unlock()
	return l.makeLot(n)
}

// nextSize returns how many transactions to make, now that there are no spare
// ones. Many callers may find that out at once; one of them makes the lot.
func (l *lots) nextSize() int {
	if l.making {
		return 1
	}
	now := time.Now()
	if now.Sub(l.made) < quickLot && l.calls.Load() > 1 {
		l.size = min(2*l.size, largestLot)
	} else {
		l.size = max(l.size/2, 1)
	}
	l.made, l.making = now, l.size > 1
	return l.size
}

// makeLot makes n transactions, and returns one of them.
func (l *lots) makeLot(n int) *transaction {
	lot := make([]transaction, n)
	for i := range lot {
		lot[i].begin()
	}
	if n > 1 {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.making = false
		l.spare = lot[1:]
		l.watch()
	}
	return &lot[0]
}

// end makes t unusable: statements that fn left running elsewhere are waited
// for, and its rows are closed. If there are none, the rest can be put off.
func (l *lots) end(t *transaction) {
	if !t.adopted.retire() {
		_ = t.Rollback() // sends nothing
		return
	}
	l.mu.Lock()
	l.used = true
	if l.spent == nil {
		l.spent = make([]*transaction, 0, l.size)
	}
	l.spent = append(l.spent, t)
	if len(l.spent) < l.size {
		l.watch()
		l.mu.Unlock()
		return
	}
	spent := l.spent
	l.spent = nil
	l.mu.Unlock()
	endAll(spent)
}

// watch sets the timer. The caller has mu.
func (l *lots) watch() {
	if l.timer == nil {
		l.used = false
		l.timer = time.AfterFunc(keepLot, l.sweep)
	}
}

// sweep ends what has not been used for a while, and leaves nothing behind.
func (l *lots) sweep() {
	l.mu.Lock()
	if l.used {
		l.used = false
		l.timer.Reset(keepLot)
		l.mu.Unlock()
		return
	}
	spare, spent := l.spare, l.spent
	l.spare, l.spent, l.timer = nil, nil, nil
	l.mu.Unlock()
	for i := range spare {
		spent = append(spent, &spare[i])
	}
	endAll(spent)
}

func endAll(all []*transaction) {
	for _, t := range all {
		_ = t.Rollback() // sends nothing
	}
}
