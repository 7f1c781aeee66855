package pgtest_test

import (
	"path/filepath"
	"testing"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
)

// The data are in memory where there is enough of it, unless TMPDIR says where they
// go.
func TestWhereTheDataAre(t *testing.T) {
	set := publicDir(t)
	usual := pgtest.MemoryDir()
	if usual == "" {
		usual = "/tmp"
	}
	for tmpdir, want := range map[string]string{set: set, "": usual} {
		t.Setenv("TMPDIR", tmpdir)
		conn := connect(t, pgtest.Dedicated(t).DSN())
		data := query[string](t, conn, "show data_directory")
		if parent := filepath.Dir(filepath.Dir(data)); parent != want {
			t.Errorf("with TMPDIR=%q the data are at %s, want them in %s", tmpdir, data, want)
		}
	}
}
