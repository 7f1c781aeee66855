package pgtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// initdbArgs make a cluster for tests.
var initdbArgs = []string{"-U", superuser, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--wal-segsize=1"}

// initialize makes the data directory, by initdb. That takes a second. So what it
// has made is kept in the user's cache, as an archive, for the next cluster of
// whichever process: to unpack it takes a tenth of that.
func (c *cluster) initialize(ctx context.Context) error {
	archive, err := c.archive()
	if err != nil {
		return c.initdb(ctx) // there is no such cache, or it is not known what to keep there
	}
	if c.unpack(ctx, archive) == nil {
		return nil
	}
	if err := os.RemoveAll(c.data()); err != nil {
		return err
	}
	if err := c.initdb(ctx); err != nil {
		return err
	}
	_ = c.pack(ctx, archive) // without it, the next cluster takes a second too
	return nil
}

func (c *cluster) initdb(ctx context.Context) error {
	return c.run(ctx, "initdb", append([]string{"-D", c.data()}, initdbArgs...)...)
}

// archive returns the name of the archive of what initdb makes. There is one for each
// installation of PostgreSQL, and another one takes its place when that changes.
func (c *cluster) archive() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	program := filepath.Join(c.bin, "postgres")
	info, err := os.Stat(program)
	if err != nil {
		return "", err
	}
	state := fmt.Sprint(info.Size(), info.ModTime().UnixNano(), initdbArgs)
	return filepath.Join(cache, "pgadvisory", "blank-"+hash(program)+"-"+hash(state)+".tar"), nil
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return fmt.Sprintf("%x", sum[:8])
}

// unpack makes the data directory of an archive. The account that does it need not be
// one that may read the user's files.
func (c *cluster) unpack(ctx context.Context, archive string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	tar := c.command(ctx, "tar", "-xpf", "-")
	tar.Stdin = f
	if err := tar.Run(); err != nil {
		return err
	}
	_, err = os.Stat(filepath.Join(c.data(), "PG_VERSION")) // of an empty archive, tar makes nothing
	return err
}

// pack makes the archive, whole or not at all, and removes what it replaces.
func (c *cluster) pack(ctx context.Context, archive string) (err error) {
	dir := filepath.Dir(archive)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err := errors.Join(c.writeTar(ctx, f), f.Sync(), f.Close()); err != nil {
		return err
	}
	installation := archive[:len(archive)-len("-"+hash("")+".tar")]
	old, _ := filepath.Glob(installation + "-*.tar") // fails only on a malformed pattern
	for _, name := range old {
		_ = os.Remove(name) // or somebody else has
	}
	return os.Rename(f.Name(), archive)
}

func (c *cluster) writeTar(ctx context.Context, w io.Writer) error {
	tar := c.command(ctx, "tar", "-cf", "-", filepath.Base(c.data()))
	tar.Stdout = w
	return tar.Run()
}
