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

// dataDir is where a cluster's data are in its sandbox.
const dataDir = "data"

// A blank is an archive of what initdb makes, in the user's cache, for the next cluster
// of whichever process. To unpack it takes a tenth of the time of an initdb.
type blank struct {
	box  *sandbox
	file string
}

// blankFor returns the blank of what initdb in bin makes with args, for use in box. There
// is one for each installation of PostgreSQL, and another one takes its place when that
// changes.
func blankFor(box *sandbox, bin string, args []string) (*blank, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	program := filepath.Join(bin, "postgres")
	info, err := os.Stat(program)
	if err != nil {
		return nil, err
	}
	state := fmt.Sprint(info.Size(), info.ModTime().UnixNano(), args)
	return &blank{box, filepath.Join(cache, "pgadvisory", "blank-"+hash(program)+"-"+hash(state)+".tar")}, nil
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return fmt.Sprintf("%x", sum[:8])
}

// unpack makes the data directory. The account that does it may be one that cannot read
// the user's files.
func (b *blank) unpack(ctx context.Context) error {
	f, err := os.Open(b.file)
	if err != nil {
		return err
	}
	defer f.Close()
	tar := b.box.command(ctx, "tar", "-xpf", "-")
	tar.Stdin = f
	if err := tar.Run(); err != nil {
		return err
	}
	_, err = os.Stat(filepath.Join(b.box.dir, dataDir, "PG_VERSION")) // of an empty archive, tar makes nothing
	return err
}

// pack makes the archive, whole or not at all, and removes what it replaces.
func (b *blank) pack(ctx context.Context) (err error) {
	dir := filepath.Dir(b.file)
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
	if err := errors.Join(b.write(ctx, f), f.Sync(), f.Close()); err != nil {
		return err
	}
	installation := b.file[:len(b.file)-len("-"+hash("")+".tar")]
	old, _ := filepath.Glob(installation + "-*.tar") // fails only on a malformed pattern
	for _, name := range old {
		_ = os.Remove(name) // or another process has
	}
	return os.Rename(f.Name(), b.file)
}

func (b *blank) write(ctx context.Context, w io.Writer) error {
	tar := b.box.command(ctx, "tar", "-cf", "-", dataDir)
	tar.Stdout = w
	return tar.Run()
}
