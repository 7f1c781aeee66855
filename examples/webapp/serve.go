package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgadvisory/pgadvisory/xactlock"
)

const (
	lockWait = 5 * time.Second // then the client is asked to come again
	maxHold  = 5 * time.Second // then the server ends a holder that hangs

	requestTimeout = lockWait + maxHold
	gracePeriod    = requestTimeout + 5*time.Second // for what is in flight, once ctx has ended
)

// serveDatabase serves on the database of f until ctx ends.
func serveDatabase(ctx context.Context, f flags, stdout io.Writer, log *slog.Logger) (err error) {
	config, err := pgx.ParseConfig(f.db)
	if err != nil {
		return fmt.Errorf("-db: %w", err)
	}
	p, err := openPools(config, f.style.name)
	if err != nil {
		return fmt.Errorf("-db: %w", err)
	}
	defer func() { err = errors.Join(err, p.close()) }()
	options := xactlock.Options{Wait: lockWait, MaxHold: maxHold}
	if err := createSchema(ctx, xactlock.New(p.db).With(options)); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", f.listen)
	if err != nil {
		return fmt.Errorf("-listen: %w", err)
	}
	fmt.Fprintf(stdout, "listening on http://%s\n", listener.Addr())
	return serve(ctx, listener, newAPI(p, f.style, options, log).routes(), log)
}

// serve serves h on listener until ctx ends, then accepts no more requests and
// returns when those in flight are answered. It closes listener.
func serve(ctx context.Context, listener net.Listener, h http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      gracePeriod,
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelError),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
		return shutDown(ctx, server)
	}
}

// shutDown gives the requests in flight the time they need. Their contexts do
// not come from ctx, so that its end is not theirs.
func shutDown(ctx context.Context, server *http.Server) error {
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), gracePeriod)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		return errors.Join(fmt.Errorf("requests are in flight after %v: %w", gracePeriod, err), server.Close())
	}
	return nil
}
