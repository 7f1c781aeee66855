package main

import (
	"context"
	"errors"
	"time"
)

const fencedSQL = "update fences set token = $1, writes = writes + 1 where key = $2 and token <= $1"

// inSession is the callback of the verbs with a session. The work goes through
// other sessions.
func (o *operation) inSession(ctx context.Context, k held) error {
	o.entered = true
	o.log(event{What: evEnter})
	defer func() { o.log(event{What: evLeave}) }()
	switch o.Style {
	case styleOccupy:
		time.Sleep(time.Duration(o.r.IntN(4000)) * time.Microsecond)
		return o.prove(ctx, onSQL{k.Conn()})
	case styleFenced:
		return o.writeFenced(ctx, k, 1+o.r.IntN(3))
	case styleIdle:
		return o.waitForLoss(ctx, onSQL{k.Conn()})
	case styleLast:
		if err := o.readTwice(ctx, o.work, nil); err != nil {
			return err
		}
		return o.proveByToken(ctx, k)
	}
	if k.Conn() == nil {
		return o.readTwice(ctx, o.work, nil)
	}
	return o.readTwice(ctx, o.work, onSQL{k.Conn()})
}

// writeFenced writes through other sessions with the token of the lock. A write
// that is refused, because a larger token was there, is checked later: that may
// be only after the lock was lost.
func (o *operation) writeFenced(ctx context.Context, k held, times int) error {
	token, err := o.token(ctx, k)
	if err != nil {
		return err
	}
	for range times {
		n, err := o.work.exec(ctx, fencedSQL, token, o.Keys[0])
		if err != nil {
			return err
		}
		if n == 0 {
			o.log(event{What: evRefused, Key: o.Keys[0], Token: token})
			return o.proveIfPossible(ctx, k)
		}
		o.pause()
	}
	return o.proveIfPossible(ctx, k)
}

func (o *operation) proveIfPossible(ctx context.Context, k held) error {
	if conn := k.Conn(); conn != nil {
		return o.prove(ctx, onSQL{conn})
	}
	return nil
}

// proveByToken asks for the token, which the session with the lock answers.
func (o *operation) proveByToken(ctx context.Context, k held) error {
	at := clock()
	if _, err := o.token(ctx, k); err != nil {
		return err
	}
	o.log(event{At: at, What: evHeld})
	return nil
}

func (o *operation) token(ctx context.Context, k held) (uint64, error) {
	token, err := k.Token(ctx)
	if err == nil {
		o.log(event{What: evToken, Token: token})
	}
	return token, err
}

// errTermOver ends a term of a leader.
var errTermOver = errors.New("the term is over")

// lead is the callback of Lead: it writes as the leader for a while. Each term
// is an operation of its own, as one call of Lead may have several.
func (o *operation) lead(ctx context.Context, k held) error {
	for end := time.Now().Add(time.Duration(50+o.r.IntN(500)) * time.Millisecond); time.Now().Before(end); {
		if err := o.writeFenced(ctx, k, 1); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Duration(o.r.IntN(20)) * time.Millisecond):
		}
	}
	return errTermOver
}
