package integration_test

import (
	"encoding/json"
	osexec "os/exec" // exec is the helper that runs SQL
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgadvisory/pgadvisory/hashkey/interop"
	"github.com/pgadvisory/pgadvisory/internal/testneed"
)

func TestAdvisoryLockAgreesWithTheNPMPackage(t *testing.T) {
	t.Parallel()
	names := append(randomNames(newRand(t), 1000, 100), "", "\x00", "some-lock-name")
	want := npmKeys(t, testneed.AdvisoryLock(t), names)
	got := make([][2]int32, len(names))
	for i, name := range names {
		got[i][0], got[i][1], _ = interop.AdvisoryLock(name).Pair()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-npm +Go):\n%s", diff)
	}
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
