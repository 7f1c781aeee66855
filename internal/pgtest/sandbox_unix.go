//go:build unix

package pgtest

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

//go:embed guard.sh
var guardScript string

// A sandbox is a temporary directory and the programs that work in it. Both
// are gone after close, or soon after the end of this process.
type sandbox struct {
	dir     string
	account *syscall.Credential // nil: this process's own
	guard   *exec.Cmd
	hold    io.Closer // the guard acts when this closes
}

// newSandbox starts a guard, which makes the directory. When the sandbox ends
// the guard runs the stop command, if there is one, in that directory.
func newSandbox(stop ...string) (*sandbox, error) {
	account, err := unprivileged()
	if err != nil {
		return nil, err
	}
	b := &sandbox{account: account}
	if err := b.start(stop); err != nil {
		return nil, fmt.Errorf("make a directory for a server: %w", err)
	}
	return b, nil
}

func (b *sandbox) start(stop []string) error {
	parent, err := filepath.Abs(tempDir(b.account))
	if err != nil {
		return err
	}
	args := append([]string{"-c", guardScript, "pgtest-guard", parent}, stop...)
	b.guard = exec.Command("/bin/sh", args...)
	b.guard.Dir = "/" // this process's own may be closed to the account
	b.guard.Env = environ()
	b.guard.SysProcAttr = &syscall.SysProcAttr{Credential: b.account, Setpgid: true}
	if b.hold, err = b.guard.StdinPipe(); err != nil {
		return err
	}
	answer, err := b.guard.StdoutPipe()
	if err != nil {
		return err
	}
	if err := b.guard.Start(); err != nil {
		return err
	}
	return b.await(answer)
}

// await reads the guard's answer, which is the directory or an error message.
func (b *sandbox) await(answer io.Reader) error {
	line, err := io.ReadAll(answer)
	if err != nil {
		return errors.Join(err, b.hold.Close())
	}
	b.dir = strings.TrimSpace(string(line))
	if !filepath.IsAbs(b.dir) {
		return errors.Join(errors.New(b.dir), b.hold.Close(), b.guard.Wait())
	}
	return nil
}

// command prepares a program that runs in the directory, under an account
// that servers accept, and that the guard ends.
func (b *sandbox) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = b.dir
	cmd.Env = environ()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: b.account,
		Setpgid:    true,
		Pgid:       b.guard.Process.Pid,
	}
	return cmd
}

// close ends what runs in the sandbox and removes the directory; both are done
// when it returns nil. Once is enough, more do no harm.
func (b *sandbox) close() error {
	if err := b.hold.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	// The guard's last act is to kill its group, which it is in, so its exit
	// status says nothing. The directory does.
	b.guard.Wait()
	if _, err := os.Lstat(b.dir); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("%s could not be removed", b.dir), err)
	}
	return nil
}

// unprivileged is the account to run servers under: nil for this process's
// own, another one for root, which PostgreSQL and PgBouncer refuse.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		account, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, fmt.Errorf("root cannot run PostgreSQL, and there is no account to do it: %w", err)
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// tempDir is where sandboxes go: TMPDIR where that is set, else into memory where
// there is enough; else the usual directory, unless the account cannot work there
// (root's TMPDIR may well be private).
func tempDir(account *syscall.Credential) string {
	if dir := memoryDir(); dir != "" && os.Getenv("TMPDIR") == "" && openToAll(dir) {
		return dir
	}
	dir := os.TempDir()
	if account == nil || openToAll(dir) {
		return dir
	}
	return "/tmp"
}

// openToAll reports whether every account may create files in dir.
func openToAll(dir string) bool {
	want := fs.FileMode(0o003)
	for {
		info, err := os.Stat(dir)
		if err != nil || info.Mode()&want != want {
			return false
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return true
		}
		dir, want = parent, 0o001
	}
}

// environ is the environment without what would reconfigure the servers:
// PGDATA, PGPORT and the like, and locales that may not exist.
func environ() []string {
	env := []string{"LC_ALL=C"}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PG") && !strings.HasPrefix(v, "LC_ALL=") {
			env = append(env, v)
		}
	}
	return env
}
