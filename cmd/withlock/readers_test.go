//go:build unix

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// A writer gets its turn although there is no moment without a reader.
func TestWriterAmongReaders(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	db := openDB(t, dsn)
	dir := t.TempDir()
	file := func(name string, i int) string { return filepath.Join(dir, fmt.Sprint(name, i)) }
	exists := func(file string) bool { _, err := os.Stat(file); return err == nil }
	reader := func(i int) *process {
		return startIn(t, dir, dsn, "-s", "job", "--", "sh", "-c",
			fmt.Sprintf(`touch in%d; until test -e out%d; do sleep 0.05; done`, i, i))
	}
	leave := func(i int) {
		if err := os.WriteFile(file("out", i), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// held back is a reader that waits for a writer's turn.
	turn := turnKey(job).Int64()
	heldBack := func() bool {
		var n int
		err := db.QueryRow(`select count(*) from pg_locks where locktype = 'advisory' and not granted
			and classid::bigint = $1 and objid::bigint = $2`, int64(uint64(turn)>>32), int64(uint32(turn))).Scan(&n)
		return err == nil && n > 0
	}
	all := []*process{reader(0)}
	until(t, "a reader has the lock", func() bool { return exists(file("in", 0)) })
	writer := startIn(t, dir, dsn, "job", "touch", "written")
	waits(t, db)
	const most = 8
	last := 0 // of those that have the lock
	for i := 1; i <= most; i++ {
		all = append(all, reader(i))
		got, back := false, false
		until(t, "the reader has the lock, or does not get it", func() bool {
			got, back = exists(file("in", i)), heldBack()
			return got || back
		})
		leave(i - 1)
		if !got {
			break
		}
		last = i
	}
	if last == most {
		t.Error("the writer starves")
		leave(last)
	}
	writer.ends(t, 0)
	for i, p := range all {
		leave(i)
		p.ends(t, 0)
	}
}
