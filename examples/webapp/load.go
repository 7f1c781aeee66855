package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// load is what the clients of the demonstration do.
type load struct {
	accounts int           // with the ids from 0
	clients  int           // at the same time
	requests int           // of all clients together
	think    time.Duration // of the service, between read and write
	wait     time.Duration // of the service, for the lock
}

// openingBalance is enough for all requests to go to one account.
func (l load) openingBalance() int64 { return int64(l.requests) }

// answer is what a client got for one request.
type answer struct {
	latency time.Duration
	stuck   bool // 503: the lock was not to be had in time
}

// run withdraws one cent with each request to the service at base. Answers
// other than 200 and 503 are an error, and the first error ends the run.
func (l load) run(ctx context.Context, base string) ([]answer, error) {
	transport := &http.Transport{MaxIdleConnsPerHost: l.clients}
	// A connection that was dialled and never used would delay the service's
	// shutdown by seconds.
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: gracePeriod}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)

	requests := l.queue()
	answers := make([]answer, l.requests)
	var clients sync.WaitGroup
	for range l.clients {
		clients.Go(func() {
			for i := range requests {
				var err error
				if answers[i], err = withdrawOne(ctx, client, base, rand.IntN(l.accounts)); err != nil {
					stop(err)
					return
				}
			}
		})
	}
	clients.Wait()
	return answers, context.Cause(ctx)
}

// queue returns the numbers of the requests, for the clients to share: a
// client that got stuck shall not have a longer day than the others.
func (l load) queue() <-chan int {
	requests := make(chan int, l.requests)
	for i := range l.requests {
		requests <- i
	}
	close(requests)
	return requests
}

func withdrawOne(ctx context.Context, client *http.Client, base string, account int) (answer, error) {
	target := fmt.Sprintf("%s/accounts/%d/withdraw", base, account)
	form := url.Values{"amount": {"1"}}.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(form))
	if err != nil {
		return answer{}, err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	start := time.Now()
	response, err := client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{}, err
	}
	switch response.StatusCode {
	case http.StatusOK, http.StatusServiceUnavailable:
		return answer{time.Since(start), response.StatusCode == http.StatusServiceUnavailable}, nil
	}
	return answer{}, fmt.Errorf("POST %s: %s: %s", target, response.Status, body)
}
