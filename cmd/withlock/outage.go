package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// absence is why the database is of no use at the moment.
type absence int

const (
	forGood  absence = iota // time does not mend it
	away                    // it cannot be reached, or is no primary
	notReady                // it has answered that it is starting, or full
)

// absenceOf returns which of them an error is.
func absenceOf(err error) absence {
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		const cannotConnectNow, tooManyConnections, protocolViolation = "57P03", "53300", "08P01"
		switch code := answer.Code; {
		case code == cannotConnectNow, code == tooManyConnections:
			return notReady
		case code == protocolViolation && strings.Contains(answer.Message, "no more connections"):
			return notReady // PgBouncer is full
		case code == protocolViolation && strings.Contains(answer.Message, "parameter"):
			return forGood // PgBouncer's word on a startup parameter
		case strings.HasPrefix(code, "57P"), strings.HasPrefix(code, "08"):
			return away
		}
		return forGood
	}
	var (
		certificate *tls.CertificateVerificationError
		authority   x509.UnknownAuthorityError
		record      tls.RecordHeaderError
		connect     *pgconn.ConnectError
	)
	switch {
	case errors.As(err, &certificate), errors.As(err, &authority), errors.As(err, &record):
		return forGood
	case errors.Is(err, sessionlock.ErrPooler), errors.Is(err, sessionlock.ErrDriver),
		errors.Is(err, sessionlock.ErrUnsupportedServer), errors.Is(err, sessionlock.ErrLockTableFull):
		return forGood
	case errors.As(err, &connect) && strings.HasSuffix(reasonOf(err), tlsRefused):
		return forGood
	}
	return away
}

// outage is a time in which the database was of no use.
type outage struct {
	began time.Time // zero while there is none
	pause time.Duration
	said  bool
}

// begin notes that the database was of no use once more.
func (o *outage) begin() {
	const shortest = 50 * time.Millisecond
	if o.began.IsZero() {
		*o = outage{began: time.Now(), pause: shortest}
	}
}

// sleep waits until the database is to be asked again, or ctx or the time ends
// that may be waited. Each connection that is tried costs the server a process,
// so a full one is asked less and less often.
func (o *outage) sleep(ctx context.Context, why absence, until time.Time) {
	longest := time.Second
	if why == notReady {
		longest = 5 * time.Second
	}
	o.pause = min(2*o.pause, longest)
	pause := o.pause/2 + rand.N(o.pause/2)
	if !until.IsZero() {
		pause = min(pause, max(time.Until(until), time.Millisecond))
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
