package xactlock_test

import (
	"database/sql"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgadvisory/pgadvisory/xactlock"
)

// inBubble runs f where time passes when all goroutines are blocked, and checks
// that nothing is left a while later. There are calls at once. The goroutine that every *sql.DB has is
// started before, as it has no end.
func inBubble(t *testing.T, f func(t *testing.T, l *xactlock.Lots)) {
	if n := xactlock.TransactionsInUse(); n > 0 {
		t.Fatalf("%d transactions are in use before the test", n)
	}
	synctest.Test(t, func(t *testing.T) {
		l := new(xactlock.Lots)
		l.Calls(2)
		f(t, l)
		time.Sleep(time.Second)
		if n := xactlock.TransactionsInUse(); n > 0 {
			t.Errorf("%d transactions are in use a second after the last call", n)
		}
	})
}

// Nobody gets a transaction that somebody else has had.
func TestLotsTransactionIsForOneCall(t *testing.T) {
	inBubble(t, func(t *testing.T, l *xactlock.Lots) {
		var mu sync.Mutex
		seen := make(map[*sql.Tx]bool)
		var calls sync.WaitGroup
		for range 8 {
			calls.Go(func() {
				for range 200 {
					tx, end := l.Take()
					mu.Lock()
					if seen[tx] {
						t.Error("a transaction was taken twice")
					}
					seen[tx] = true
					mu.Unlock()
					end()
					if err := tx.Commit(); !errors.Is(err, sql.ErrTxDone) {
						t.Errorf("Commit after the end: %v, want sql.ErrTxDone", err)
					}
				}
			})
		}
		calls.Wait()
	})
}

// While there are calls at once, many transactions are made at a time, and ended.
func TestLotsGrow(t *testing.T) {
	inBubble(t, func(t *testing.T, l *xactlock.Lots) {
		most := 0
		for range 100 {
			_, end := l.Take()
			most = max(most, xactlock.TransactionsInUse())
			end()
		}
		if most < xactlock.LargestLot || most > 2*xactlock.LargestLot {
			t.Errorf("%d transactions at most, want %d to %d", most, xactlock.LargestLot, 2*xactlock.LargestLot)
		}
		if n := xactlock.TransactionsInUse(); n == 0 {
			t.Error("all transactions are ended at once")
		}
	})
}

// Calls that come now and then get one transaction at a time, which is ended
// with them.
func TestLotsNowAndThen(t *testing.T) {
	inBubble(t, func(t *testing.T, l *xactlock.Lots) {
		for range 20 { // after which it is so, however it was before
			_, end := l.Take()
			end()
		}
		for i := range 20 {
			time.Sleep(time.Second)
			_, end := l.Take()
			inUse := xactlock.TransactionsInUse()
			end()
			if left := xactlock.TransactionsInUse(); i >= 10 && (inUse != 1 || left != 0) {
				t.Errorf("call %d: %d transactions in a call and %d after it, want 1 and 0", i, inUse, left)
			}
		}
	})
}

// One call at a time gets one transaction at a time, however quickly they
// come.
func TestLotsOneByOne(t *testing.T) {
	inBubble(t, func(t *testing.T, l *xactlock.Lots) {
		l.Calls(-1)
		for i := range 100 {
			_, end := l.Take()
			inUse := xactlock.TransactionsInUse()
			end()
			if left := xactlock.TransactionsInUse(); inUse != 1 || left != 0 {
				t.Fatalf("call %d: %d transactions in a call and %d after it, want 1 and 0", i, inUse, left)
			}
		}
	})
}

// Many calls at once do not make a lot each.
func TestLotsAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, l *xactlock.Lots) {
		for range 100 {
			_, end := l.Take()
			end()
		}
		const calls = 500
		ends := make(chan func(), calls)
		var taken sync.WaitGroup
		for range calls {
			taken.Go(func() {
				_, end := l.Take()
				ends <- end
			})
		}
		taken.Wait()
		if n, most := xactlock.TransactionsInUse(), calls+3*xactlock.LargestLot; n > most {
			t.Errorf("%d transactions for %d calls, want at most %d", n, calls, most)
		}
		close(ends)
		for end := range ends {
			end()
		}
	})
}
