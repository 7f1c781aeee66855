package main

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/pgadvisory/pgadvisory/xactlock"
)

// maxBody is far more than any request needs.
const maxBody = 4 << 10

// api is the service as HTTP sees it.
type api struct {
	accounts accountStore
	reports  *reportStore
	log      *slog.Logger
}

func newAPI(p *pools, s style, o xactlock.Options, log *slog.Logger) *api {
	return &api{
		accounts: s.accounts(p, o, 0),
		reports:  &reportStore{locker: xactlock.New(p.db).With(o)},
		log:      log,
	}
}

type balanceBody struct {
	Balance int64 `json:"balance"`
}

func (a *api) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /accounts/{id}", a.handle(http.StatusOK, a.showAccount))
	mux.Handle("PUT /accounts/{id}", a.handle(http.StatusCreated, a.openAccount))
	mux.Handle("POST /accounts/{id}/withdraw", a.handle(http.StatusOK, a.withdraw))
	mux.Handle("POST /reports/{id}", a.handle(http.StatusOK, a.writeReport))
	return mux
}

// handle makes a handler of endpoint, which returns the body of the answer, or
// an error. The status is that of success.
func (a *api) handle(status int, endpoint func(r *http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		r = r.WithContext(ctx)
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		body, err := endpoint(r)
		if err != nil {
			a.refuse(w, r, err)
			return
		}
		a.write(w, status, body)
	})
}

func (a *api) showAccount(r *http.Request) (any, error) {
	id, err := pathID(r)
	if err != nil {
		return nil, err
	}
	balance, err := a.accounts.balance(r.Context(), id)
	return balanceBody{balance}, err
}

func (a *api) openAccount(r *http.Request) (any, error) {
	id, err := pathID(r)
	if err != nil {
		return nil, err
	}
	balance, err := bodyCents(r, "balance", 0)
	if err != nil {
		return nil, err
	}
	return balanceBody{balance}, a.accounts.open(r.Context(), id, balance)
}

func (a *api) withdraw(r *http.Request) (any, error) {
	id, err := pathID(r)
	if err != nil {
		return nil, err
	}
	amount, err := bodyCents(r, "amount", 1)
	if err != nil {
		return nil, err
	}
	balance, err := a.accounts.withdraw(r.Context(), id, amount)
	return balanceBody{balance}, err
}

func (a *api) writeReport(r *http.Request) (any, error) {
	id, err := pathID(r)
	if err != nil {
		return nil, err
	}
	return a.reports.write(r.Context(), id)
}
