//go:build unix

package locktest_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// inChild runs TestLose in another environment, as account where that is not nil,
// and returns its output.
func inChild(t *testing.T, program string, account *syscall.Credential, env ...string) (output string, err error) {
	t.Helper()
	cmd := exec.Command(program, "-test.run=^TestLose$", "-test.v")
	cmd.Dir = filepath.Dir(program)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: account}
	text, err := cmd.CombinedOutput()
	return string(text), err
}

// publicCopy returns a copy of this program that every account may run; the
// directory of the original is closed to others.
func publicCopy(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "locktest-child-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	from, err := os.Open(self(t))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.Create(filepath.Join(dir, "test"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(to, from)
	if err := errors.Join(err, to.Chmod(0o755), to.Close()); err != nil {
		t.Fatal(err)
	}
	return to.Name()
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Root's servers run under another account; the other tests show that. Here the
// tests are those of an ordinary user.
func TestOrdinaryUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("the user is an ordinary one anyway, and all tests show this")
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	output, err := inChild(t, publicCopy(t), &syscall.Credential{Uid: id(t, nobody.Uid), Gid: id(t, nobody.Gid)}, "DATABASE_URL=")
	if err != nil || !strings.Contains(output, "--- PASS: TestLose") {
		t.Errorf("%v\n%s", err, output)
	}
}

func id(t *testing.T, text string) uint32 {
	t.Helper()
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

// A test that cannot have a server fails, and says why.
func TestNoServer(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ env, want string }{
		"no programs":       {"PGTEST_BIN=/nowhere", "locktest: PGTEST_BIN is /nowhere, which has no initdb and pg_ctl"},
		"nobody at the URL": {"DATABASE_URL=postgres://127.0.0.1:1/none?sslmode=disable", "locktest: create a database on the server at DATABASE_URL: failed to connect"},
	} {
		env := []string{"DATABASE_URL="}
		output, err := inChild(t, self(t), nil, append(env, test.env)...)
		if err == nil || !strings.Contains(output, "--- FAIL: TestLose") || !strings.Contains(output, test.want) {
			t.Errorf("%s: %v, and the output does not say %q:\n%s", name, err, test.want, output)
		}
	}
}
