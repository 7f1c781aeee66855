package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	osexec "os/exec" // exec is the helper that runs SQL
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgadvisory/pgadvisory/hashkey/interop"
	"github.com/pgadvisory/pgadvisory/internal/testneed"
)

func TestAdvisoryLockAgreesWithTheNPMPackage(t *testing.T) {
	t.Parallel()
	names := append(randomNames(newRand(t), 1000, 100), "", "\x00", "some-lock-name")
	want := npmKeys(t, installAdvisoryLock(t), names)
	got := make([][2]int32, len(names))
	for i, name := range names {
		got[i][0], got[i][1], _ = interop.AdvisoryLock(name).Pair()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-npm +Go):\n%s", diff)
	}
}

// installAdvisoryLock installs the npm package and returns the directory that
// node has to run in.
func installAdvisoryLock(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	_, nodeErr := osexec.LookPath("node")
	_, npmErr := osexec.LookPath("npm")
	if err := errors.Join(nodeErr, npmErr); err != nil {
		testneed.Missing(t, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	npm := osexec.CommandContext(ctx, "npm", "install", "--prefix", dir, "--ignore-scripts", "--no-audit", "--no-fund",
		"advisory-lock@2.0.0")
	if output, err := npm.CombinedOutput(); err != nil {
		testneed.Missing(t, fmt.Errorf("npm install: %w\n%s", err, output))
	}
	return dir
}

// npmKeys asks the package for the keys of names.
func npmKeys(t *testing.T, dir string, names []string) [][2]int32 {
	t.Helper()
	input, err := json.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	node := osexec.CommandContext(t.Context(), "node", "-e", `
		const { strToKey } = require("advisory-lock");
		const names = JSON.parse(require("fs").readFileSync(0));
		console.log(JSON.stringify(names.map(strToKey)));`)
	node.Dir = dir
	node.Stdin = strings.NewReader(string(input))
	node.Stderr = t.Output()
	output, err := node.Output()
	if err != nil {
		t.Fatalf("node: %v", err)
	}
	var keys [][2]int32
	if err := json.Unmarshal(output, &keys); err != nil {
		t.Fatalf("%v in %s", err, output)
	}
	return keys
}
