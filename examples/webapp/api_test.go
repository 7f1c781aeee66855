package main

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

const (
	form     = "application/x-www-form-urlencoded"
	jsonType = "application/json; charset=utf-8"
)

func TestConcurrentWithdrawalsLeaveTheExactBalance(t *testing.T) {
	eachStyle(t, xactlock.Options{}, func(t *testing.T, s *service) {
		var clients sync.WaitGroup
		for range 30 {
			clients.Go(func() {
				if got := s.post(t, "/accounts/1/withdraw", "amount=2"); got.status != http.StatusOK {
					t.Errorf("withdraw 2: %v", got)
				}
			})
		}
		clients.Wait()
		if got, want := s.get(t, "/accounts/1"), (reply{status: http.StatusOK, body: `{"balance":40}`}); got != want {
			t.Errorf("account 1: %v, want %v", got, want)
		}
	})
}

func TestConcurrentWithdrawalsDoNotOverdraw(t *testing.T) {
	s := newService(t, xactlock.Options{})
	var mu sync.Mutex
	statuses := make(map[int]int) // guarded by mu
	var clients sync.WaitGroup
	for range 10 {
		clients.Go(func() {
			got := s.post(t, "/accounts/1/withdraw", "amount=30")
			mu.Lock()
			defer mu.Unlock()
			statuses[got.status]++
		})
	}
	clients.Wait()
	if statuses[http.StatusOK] != 3 || statuses[http.StatusUnprocessableEntity] != 7 {
		t.Errorf("10 × 30 out of 100: statuses are %v, want 3 × 200 and 7 × 422", statuses)
	}
}

func TestAnswers(t *testing.T) {
	eachStyle(t, xactlock.Options{}, func(t *testing.T, s *service) {
		for _, test := range []struct {
			method, path, contentType, body string
			status                          int
			want                            string // in the body of the answer
		}{
			{"POST", "/accounts/1/withdraw", form, "amount=1", http.StatusOK, `{"balance":99}`},
			{"POST", "/accounts/1/withdraw", jsonType, `{"amount": 9}`, http.StatusOK, `{"balance":90}`},
			{"POST", "/accounts/1/withdraw", form, "amount=91", http.StatusUnprocessableEntity, "account 1 has 90"},
			{"POST", "/accounts/2/withdraw", form, "amount=1", http.StatusNotFound, "no such account: 2"},
			{"POST", "/accounts/one/withdraw", form, "amount=1", http.StatusBadRequest, `id is \"one\"`},
			{"POST", "/accounts/1/withdraw", form, "amount=1.5", http.StatusBadRequest, `amount is \"1.5\"`},
			{"POST", "/accounts/1/withdraw", form, "amount=-5", http.StatusBadRequest, "amount is -5"},
			{"POST", "/accounts/1/withdraw", form, "", http.StatusBadRequest, `no \"amount\"`},
			{"POST", "/accounts/1/withdraw", form, "amount=%zz", http.StatusBadRequest, "%zz"},
			{"POST", "/accounts/1/withdraw", jsonType, "{}", http.StatusBadRequest, `no \"amount\"`},
			{"POST", "/accounts/1/withdraw", jsonType, `{"amount": true}`, http.StatusBadRequest, "the body is not like"},
			{"POST", "/accounts/1/withdraw", jsonType, `{"amount": 1} {}`, http.StatusBadRequest, "the body is not like"},
			{"POST", "/accounts/1/withdraw", "text/plain", "1", http.StatusUnsupportedMediaType, "text/plain"},
			{"POST", "/accounts/1/withdraw", jsonType, strings.Repeat(" ", maxBody+1), http.StatusRequestEntityTooLarge, "too large"},
			{"POST", "/accounts/1/withdraw", form, strings.Repeat("a", maxBody+1), http.StatusRequestEntityTooLarge, "too large"},
			{"GET", "/accounts/2", "", "", http.StatusNotFound, "no such account: 2"},
			{"PUT", "/accounts/1", form, "balance=5", http.StatusConflict, "account exists already: 1"},
			{"PUT", "/accounts/2", form, "balance=-5", http.StatusBadRequest, "balance is -5"},
			{"POST", "/reports/1", "", "", http.StatusOK, `{"account":1,"balance":90,"written_at":`},
			{"POST", "/reports/1", "", "", http.StatusOK, `{"account":1,"balance":90,"written_at":`},
			{"POST", "/reports/2", "", "", http.StatusNotFound, "no such account: 2"},
		} {
			got := send(t, test.method, s.url+test.path, test.contentType, test.body)
			if got.status != test.status || !strings.Contains(got.body, test.want) || got.retryAfter != "" {
				t.Errorf("%s %s %.20q: %v, want %d, …%s…", test.method, test.path, test.body, got, test.status, test.want)
			}
		}
	})
}

func TestWithdrawSaysWhenToRetryAfterItsWait(t *testing.T) {
	eachStyle(t, xactlock.Options{Wait: 500 * time.Millisecond}, func(t *testing.T, s *service) {
		s.whileHeld(t, accountLocks.ID(1), func() {
			if got := s.post(t, "/accounts/1/withdraw", "amount=1"); got.status != http.StatusServiceUnavailable || got.retryAfter != "1" {
				t.Errorf("while another one holds the lock: %v, want 503 and Retry-After", got)
			}
			if got := s.post(t, "/reports/1", ""); got.status != http.StatusOK {
				t.Errorf("report, which is another lock: %v, want 200", got)
			}
		})
		if got := s.post(t, "/accounts/1/withdraw", "amount=1"); got.body != `{"balance":99}` {
			t.Errorf("afterwards: %v, want a balance of 99", got)
		}
	})
}

func TestReportBusySaysWhenToRetry(t *testing.T) {
	s := newService(t, xactlock.Options{})
	s.whileHeld(t, reportLocks.ID(1), func() {
		if got := s.post(t, "/reports/1", ""); got.status != http.StatusConflict || got.retryAfter != "1" {
			t.Errorf("while another one holds the lock: %v, want 409 and Retry-After", got)
		}
	})
	if got := s.post(t, "/reports/1", ""); got.status != http.StatusOK {
		t.Errorf("afterwards: %v, want 200", got)
	}
}

// A pool without a free connection is not a report that somebody else writes.
func TestReportWithoutConnectionIsNotBusy(t *testing.T) {
	s := newService(t, xactlock.Options{Wait: 500 * time.Millisecond})
	s.db.SetMaxOpenConns(1)
	s.whileHeld(t, hashkey.Name("unrelated"), func() {
		if got := s.post(t, "/reports/1", ""); got.status != http.StatusServiceUnavailable || got.retryAfter != "1" {
			t.Errorf("while the pool is empty: %v, want 503 and Retry-After", got)
		}
	})
}

func TestExplainKeepsSecrets(t *testing.T) {
	for _, err := range []error{
		fmt.Errorf("dial 10.0.0.7: %w", context.Canceled),
		fmt.Errorf("dial 10.0.0.7: %w", context.DeadlineExceeded),
		fmt.Errorf("%w: 10.0.0.7", xactlock.ErrCommitUnknown),
		fmt.Errorf("%w: 10.0.0.7", xactlock.ErrNotAcquired),
		fmt.Errorf("%w: 10.0.0.7", xactlock.ErrLost),
		fmt.Errorf("%w: 10.0.0.7", xactlock.ErrDeadlock),
	} {
		if got := explain(err); got.status < 500 || strings.Contains(got.message, "10.0.0.7") {
			t.Errorf("explain(%v) = %+v, want 5xx and no address", err, got)
		}
	}
}

// What did nothing may be tried again, and what may be done already may not.
func TestExplainSaysWhatToTryAgain(t *testing.T) {
	for _, test := range []struct {
		err    error
		status int
		retry  bool
	}{
		{fmt.Errorf("%w: %w", xactlock.ErrNotAcquired, context.DeadlineExceeded), http.StatusServiceUnavailable, true},
		{xactlock.ErrDeadlock, http.StatusServiceUnavailable, true},
		{xactlock.ErrLockTableFull, http.StatusServiceUnavailable, true},
		{xactlock.ErrStandby, http.StatusServiceUnavailable, true},
		{xactlock.ErrLost, http.StatusServiceUnavailable, true},
		{xactlock.ErrCommitUnknown, http.StatusGatewayTimeout, false},
		{xactlock.ErrNested, http.StatusInternalServerError, false},
	} {
		if got := explain(test.err); got.status != test.status || got.retry != test.retry {
			t.Errorf("explain(%v) = %+v, want %d, retry %t", test.err, got, test.status, test.retry)
		}
	}
}

func TestCreateSchemaByManyAtOnce(t *testing.T) {
	s := newService(t, xactlock.Options{})
	if _, err := s.db.ExecContext(t.Context(), `drop table reports, accounts`); err != nil {
		t.Fatal(err)
	}
	var replicas sync.WaitGroup
	for range 8 {
		replicas.Go(func() {
			if err := createSchema(t.Context(), s.locker); err != nil {
				t.Error(err)
			}
		})
	}
	replicas.Wait()
}

// whileHeld calls do while the test holds the lock of key.
func (s *service) whileHeld(t *testing.T, key hashkey.Key, do func()) {
	t.Helper()
	err := s.locker.WithTx(t.Context(), key, func(context.Context, *sql.Tx) error {
		do()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
