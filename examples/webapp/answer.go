package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/pgadvisory/pgadvisory/xactlock"
)

// refusal is what a client is told instead of a result.
type refusal struct {
	status  int
	retry   bool // soon the same request may well succeed
	message string
}

// explain finds the refusal for err. What is nobody's business but ours does
// not get into its message.
func explain(err error) refusal {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return refusal{status: http.StatusRequestEntityTooLarge, message: err.Error()}
	case errors.Is(err, errBadRequest):
		return refusal{status: http.StatusBadRequest, message: err.Error()}
	case errors.Is(err, errMediaType):
		return refusal{status: http.StatusUnsupportedMediaType, message: err.Error()}
	case errors.Is(err, errNoAccount):
		return refusal{status: http.StatusNotFound, message: err.Error()}
	case errors.Is(err, errAccountExists):
		return refusal{status: http.StatusConflict, message: err.Error()}
	case errors.Is(err, errInsufficient):
		return refusal{status: http.StatusUnprocessableEntity, message: err.Error()}
	case errors.Is(err, errReportBusy): // before ErrNotAcquired, which it wraps
		return refusal{status: http.StatusConflict, retry: true, message: errReportBusy.Error()}
	case errors.Is(err, xactlock.ErrNotAcquired):
		return refusal{status: http.StatusServiceUnavailable, retry: true, message: "busy, and nothing was done: others came first"}
	case errors.Is(err, xactlock.ErrDeadlock), errors.Is(err, xactlock.ErrLockTableFull), errors.Is(err, xactlock.ErrStandby):
		return refusal{status: http.StatusServiceUnavailable, retry: true, message: "the database cannot lock now, and nothing was done"}
	case errors.Is(err, xactlock.ErrLost):
		return refusal{status: http.StatusServiceUnavailable, retry: true, message: "interrupted, and nothing was done"}
	case errors.Is(err, xactlock.ErrCommitUnknown):
		// No Retry-After: the money may be gone, and would then be gone twice.
		return refusal{status: http.StatusGatewayTimeout, message: "the outcome is unknown: look before trying again"}
	case errors.Is(err, context.DeadlineExceeded):
		return refusal{status: http.StatusGatewayTimeout, message: "no answer in time: look before trying again"}
	}
	return refusal{status: http.StatusInternalServerError, message: "internal error"}
}

func (a *api) refuse(w http.ResponseWriter, r *http.Request, err error) {
	answer := explain(err)
	if answer.status >= http.StatusInternalServerError && !errors.Is(err, xactlock.ErrNotAcquired) && !errors.Is(r.Context().Err(), context.Canceled) {
		// A client that hung up is no failure of ours.
		a.log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	if answer.retry {
		w.Header().Set("Retry-After", "1") // seconds
	}
	a.write(w, answer.status, map[string]string{"error": answer.message})
}

func (a *api) write(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		a.log.Warn("the answer did not reach the client", "status", status, "error", err)
	}
}
