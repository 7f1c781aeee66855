package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// superuser is the role that initdb creates.
const superuser = "postgres"

// baseSettings make a server reachable through TCP alone, and quick: its data
// need not survive a crash of the machine. It does survive one of the server,
// which is why synchronous_commit stays on. All exist since PostgreSQL 14.
var baseSettings = []string{
	"listen_addresses = '127.0.0.1'",
	"unix_socket_directories = ''",
	"max_connections = 200",
	"fsync = off",
	"full_page_writes = off",
	"autovacuum = off", // each of its workers begins a session
}

// initdbArgs make a cluster for tests.
var initdbArgs = []string{"-U", superuser, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--wal-segsize=1"}

// A cluster is a data directory and the server that may run on it.
type cluster struct {
	*sandbox
	bin  string
	port int
}

// newCluster prepares a cluster and starts it.
func newCluster(ctx context.Context, settings []string) (*cluster, error) {
	bin, err := findServer()
	if err != nil {
		return nil, err
	}
	c, err := openCluster(bin)
	if err != nil {
		return nil, err
	}
	if err := c.create(ctx, settings); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func openCluster(bin string) (*cluster, error) {
	box, err := newSandbox(filepath.Join(bin, "pg_ctl"), "-D", dataDir, "-m", "fast", "stop")
	if err != nil {
		return nil, err
	}
	return &cluster{sandbox: box, bin: bin}, nil
}

func (c *cluster) create(ctx context.Context, settings []string) error {
	if err := c.initialize(ctx); err != nil {
		return err
	}
	if err := c.configure(append(baseSettings, settings...)); err != nil {
		return err
	}
	return c.firstStart(ctx)
}

// initialize makes the data directory, from a blank or by initdb.
func (c *cluster) initialize(ctx context.Context) error {
	b, err := blankFor(c.sandbox, c.bin, initdbArgs)
	if err != nil {
		return c.initdb(ctx) // there is no cache, or it is not known what to keep there
	}
	if b.unpack(ctx) == nil {
		return nil
	}
	if err := os.RemoveAll(c.data()); err != nil { // of a broken one
		return err
	}
	if err := c.initdb(ctx); err != nil {
		return err
	}
	_ = b.pack(ctx) // or the next cluster takes as long
	return nil
}

func (c *cluster) initdb(ctx context.Context) error {
	return c.run(ctx, "initdb", append([]string{"-D", c.data()}, initdbArgs...)...)
}

// firstStart chooses the port. Between the choice and the server's bind
// another process may take it; then the next one is tried.
func (c *cluster) firstStart(ctx context.Context) error {
	return withPort(func(port int) error {
		c.port = port
		if err := c.configure([]string{"port = " + strconv.Itoa(port)}); err != nil {
			return err
		}
		return c.ctl(ctx, "start")
	})
}

// configure appends lines to postgresql.conf, where the last one wins.
func (c *cluster) configure(lines []string) error {
	f, err := os.OpenFile(filepath.Join(c.data(), "postgresql.conf"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(f, strings.Join(lines, "\n")+"\n"); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// ctl runs pg_ctl, which returns when the server has started or stopped.
func (c *cluster) ctl(ctx context.Context, args ...string) error {
	args = append([]string{"-D", c.data(), "-l", filepath.Join(c.dir, "log"), "-w", "-s"}, args...)
	return c.run(ctx, "pg_ctl", args...)
}

// run runs a server program to its end. Its error holds the program's output
// and the end of the server's log.
func (c *cluster) run(ctx context.Context, program string, args ...string) error {
	if !filepath.IsAbs(program) {
		program = filepath.Join(c.bin, program)
	}
	output, err := c.command(ctx, program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s%s", program, err, output, c.logTail())
	}
	return nil
}

func (c *cluster) data() string { return filepath.Join(c.dir, dataDir) }

func (c *cluster) dsn() string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/postgres?sslmode=disable", superuser, c.port)
}

// withPort calls start with a free port of 127.0.0.1, and again with another
// one if it fails while another process has the port.
func withPort(start func(port int) error) error {
	var err error
	for range 5 {
		var port int
		if port, err = freePort(); err != nil {
			return err
		}
		if err = start(port); err == nil || portFree(port) {
			return err
		}
	}
	return err
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

func portFree(port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	return err == nil && l.Close() == nil
}

// logTail is the end of the sandbox's log, headed, for an error message; it is
// empty where nothing has been logged.
func (b *sandbox) logTail() string {
	const most = 2 << 10
	log, err := os.ReadFile(filepath.Join(b.dir, "log"))
	if err != nil || len(log) == 0 {
		return ""
	}
	return fmt.Sprintf("log:\n%s", log[max(0, len(log)-most):])
}
