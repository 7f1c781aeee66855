// Package pulse says how often a session that holds a lock is asked for it.
package pulse

import (
	"context"
	"time"
)

// Default is what [Interval] returns for a ctx that says nothing else. It is the
// most traffic that a lock which is only held may cause.
const Default = 10 * time.Second

type contextKey struct{}

// With returns a ctx under which locks are taken that are asked for more often: for
// withlock, where the server may give up a silent client soon, and for tests.
func With(ctx context.Context, interval time.Duration) context.Context {
	return context.WithValue(ctx, contextKey{}, interval)
}

// Interval returns how often the sessions of locks taken under ctx are asked.
func Interval(ctx context.Context) time.Duration {
	if interval, ok := ctx.Value(contextKey{}).(time.Duration); ok {
		return interval
	}
	return Default
}
