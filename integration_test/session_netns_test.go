package integration_test

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	osexec "os/exec"
	"strings"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/internal/testneed"
)

// A client that vanishes without a word, because its network goes down, has
// its lock freed within DeadClient and a few seconds. As long as it is there
// and silent, it has not.
func TestSessionDeadClient(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	dsn := pgtest.Dedicated(t, "listen_addresses = '*'").Database(t)
	db := openDB(t, dsn)
	admit(t, db)

	client := startChild(t, "hold", n.address(t, dsn), "ip", "netns", "exec", n.namespace)
	until(t, "the client has the lock", func() bool { return len(client.lines("locked")) == 1 })
	pid := number(t, db, `select pid from pg_locks where locktype = 'advisory'`)
	silentFor(t, db, pid, childOptions.DeadClient+2*time.Second)
	if heldLocks(t, db) != 1 {
		t.Fatal("an idle client lost its lock")
	}
	n.unplug(t)
	start := time.Now()
	becomesFree(t, db, childKey)
	took := time.Since(start)
	t.Logf("freed after %v", took)
	if took > childOptions.DeadClient+5*time.Second {
		t.Errorf("the lock was freed after %v, want about %v", took, childOptions.DeadClient)
	}
	noTrace(t, db)
}

// admit has the server of db accept clients from elsewhere.
func admit(t *testing.T, db *sql.DB) {
	t.Helper()
	var hba string
	if err := db.QueryRow(`show hba_file`).Scan(&hba); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(hba, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteString("host all all all trust\n")
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	exec(t, db, `select pg_reload_conf()`)
	until(t, "the server has read the file", func() bool {
		return number(t, db, `select count(*) from pg_hba_file_rules where address = 'all'`) > 0
	})
}

// network is a network namespace for clients, and a cable that leads there.
type network struct {
	namespace string
	cable     string // the client's side
	server    string // the server's address on the cable
}

// newNetwork makes a network, or skips the test, or fails it where CI is set.
func newNetwork(t *testing.T) *network {
	t.Helper()
	id := os.Getpid()
	n := &network{
		namespace: fmt.Sprintf("pgadvisory%d", id),
		cable:     fmt.Sprintf("pgc%d", id),
		server:    fmt.Sprintf("10.%d.%d.1", 200+id>>8%50, id%256),
	}
	here := fmt.Sprintf("pgs%d", id)
	t.Cleanup(func() {
		// Either may not be there. The namespace lives on for as long as
		// sockets of dead clients do, and would keep the cable.
		_ = ip("link", "delete", here)
		_ = ip("netns", "delete", n.namespace)
	})
	for _, args := range [][]string{
		{"netns", "add", n.namespace},
		{"link", "add", here, "type", "veth", "peer", "name", n.cable, "netns", n.namespace},
		{"address", "add", n.server + "/24", "dev", here},
		{"link", "set", here, "up"},
		{"-netns", n.namespace, "address", "add", strings.TrimSuffix(n.server, "1") + "2/24", "dev", n.cable},
		{"-netns", n.namespace, "link", "set", n.cable, "up"},
	} {
		err := ip(args...)
		if err == nil {
			continue
		}
		testneed.Missing(t, fmt.Errorf("needs root and iproute2 for a network namespace: %w", err))
	}
	return n
}

// ip runs ip(8).
func ip(args ...string) error {
	output, err := osexec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w\n%s", strings.Join(args, " "), err, output)
	}
	return nil
}

// address returns dsn as a client in n has to write it.
func (n *network) address(t *testing.T, dsn string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = n.server + ":" + u.Port()
	return u.String()
}

// unplug takes the client's side of the cable down.
func (n *network) unplug(t *testing.T) {
	t.Helper()
	if err := ip("-netns", n.namespace, "link", "set", n.cable, "down"); err != nil {
		t.Fatal(err)
	}
}
