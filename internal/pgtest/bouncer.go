package pgtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// bouncerTimeout bounds the start of PgBouncer, a matter of milliseconds.
const bouncerTimeout = 30 * time.Second

// Bouncer starts PgBouncer in front of the server of dsn and returns the DSN
// of the same database through it. The mode is its pool_mode: "session",
// "transaction" or "statement". It is stopped at the end of the test.
//
// PgBouncer before 1.21 knows no prepared statements outside session mode, so
// for the other modes the DSN makes pgx do without
// (default_query_exec_mode=exec, which lib/pq does not understand). Settings
// of the session that dsn asks for, such as search_path, get lost on the way.
//
// Where PgBouncer is not installed the test is skipped, and fails if CI is set.
func Bouncer(tb testing.TB, dsn string, mode string) string {
	tb.Helper()
	bin, err := findBouncer()
	if err != nil {
		missing(tb, err)
	}
	ctx, cancel := context.WithTimeout(tb.Context(), bouncerTimeout)
	defer cancel()
	b, err := startBouncer(ctx, bin, dsn, mode, nil)
	if err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	tb.Cleanup(func() {
		if err := b.close(); err != nil {
			tb.Errorf("pgtest: %v", err)
		}
	})
	return b.dsn
}

// A PgBouncer is one that [StartBouncer] has started. Its methods are not to be
// called concurrently.
type PgBouncer struct{ bouncer *bouncer }

// StartBouncer is [Bouncer] for a program without a test: the caller ends it
// with Close. The settings are lines of its section [pgbouncer], such as
// "server_login_retry = 1".
func StartBouncer(ctx context.Context, dsn, mode string, settings ...string) (*PgBouncer, error) {
	bin, err := findBouncer()
	if err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	b, err := startBouncer(ctx, bin, dsn, mode, settings)
	if err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	return &PgBouncer{b}, nil
}

// DSN is the URL of the database through PgBouncer.
func (p *PgBouncer) DSN() string { return p.bouncer.dsn }

// Signal sends PgBouncer a signal, such as SIGKILL. If PgBouncer has ended, the
// error is os.ErrProcessDone, with the end of PgBouncer's log.
func (p *PgBouncer) Signal(signal os.Signal) error {
	err := p.bouncer.process.Signal(signal)
	if err != nil {
		err = fmt.Errorf("pgtest: PgBouncer: %w\n%s", err, p.bouncer.logTail())
	}
	return err
}

// Restart kills PgBouncer, if it runs, and starts it on the same port. It lets
// clients through when Restart returns nil.
func (p *PgBouncer) Restart(ctx context.Context) error {
	if err := p.Signal(os.Kill); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("pgtest: %w", err)
	}
	for range p.bouncer.exited { // until it is closed
	}
	if err := p.bouncer.start(ctx); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	return nil
}

// Close ends PgBouncer and removes its files.
func (p *PgBouncer) Close() error { return p.bouncer.close() }

// A bouncer is a running PgBouncer.
type bouncer struct {
	*sandbox
	bin     string
	dsn     string
	process *os.Process
	exited  chan error // gets the result of its Wait, then is closed
}

func startBouncer(ctx context.Context, bin, dsn, mode string, settings []string) (*bouncer, error) {
	server, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	box, err := newSandbox()
	if err != nil {
		return nil, err
	}
	b := &bouncer{sandbox: box, bin: bin}
	err = withPort(func(port int) error {
		b.dsn = withAddress(dsn, port, driverOptions(mode))
		if err := b.configure(server, mode, port, settings); err != nil {
			return err
		}
		return b.start(ctx)
	})
	if err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func driverOptions(mode string) map[string]string {
	if mode == "session" {
		return nil
	}
	return map[string]string{"default_query_exec_mode": "exec"}
}

// configure writes the file that PgBouncer starts from.
func (b *bouncer) configure(server *pgx.ConnConfig, mode string, port int, settings []string) error {
	// With auth_type any, PgBouncer lets every client in, as the user given here.
	database := fmt.Sprintf("* = host=%s port=%d user=%s", quote(server.Host), server.Port, quote(server.User))
	if server.Password != "" {
		database += " password=" + quote(server.Password)
	}
	ignore := append([]string{"extra_float_digits", "options"}, slices.Sorted(maps.Keys(server.RuntimeParams))...)
	lines := []string{
		"[databases]",
		database,
		"[pgbouncer]",
		"listen_addr = 127.0.0.1",
		fmt.Sprintf("listen_port = %d", port),
		"unix_socket_dir =",
		"auth_type = any",
		"pool_mode = " + mode,
		"default_pool_size = 50",
		"max_client_conn = 1000",
		"ignore_startup_parameters = " + strings.Join(ignore, ","),
	}
	text := strings.Join(append(lines, settings...), "\n") + "\n"
	return os.WriteFile(b.config(), []byte(text), 0o644)
}

// start runs PgBouncer and returns when a client gets through to the server.
func (b *bouncer) start(ctx context.Context) error {
	log, err := os.Create(filepath.Join(b.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := b.command(context.Background(), b.bin, b.config())
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return err
	}
	b.process = cmd.Process
	b.exited = make(chan error, 1)
	go func(exited chan<- error) {
		exited <- cmd.Wait()
		close(exited)
	}(b.exited)
	if err := b.await(ctx); err != nil {
		return fmt.Errorf("%s: %w\n%s", b.bin, err, b.logTail())
	}
	return nil
}

// await tries to connect until that works, PgBouncer exits or ctx ends.
func (b *bouncer) await(ctx context.Context) error {
	for {
		err := ping(ctx, b.dsn)
		if err == nil {
			return nil
		}
		select {
		case exit := <-b.exited:
			return fmt.Errorf("ended: %w", exit)
		case <-ctx.Done():
			return fmt.Errorf("accepts no connections: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (b *bouncer) config() string { return filepath.Join(b.dir, "pgbouncer.ini") }

func (b *bouncer) close() error {
	err := b.sandbox.close() // whose guard kills PgBouncer: it has nothing to save
	if b.exited != nil {
		<-b.exited
	}
	return err
}

func ping(ctx context.Context, dsn string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return conn.Ping(ctx)
}

// quote writes a value of PgBouncer's connection strings.
func quote(value string) string {
	return "'" + strings.ReplaceAll(value, "'", "''") + "'"
}
