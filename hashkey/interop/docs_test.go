package interop_test

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

func specification(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/keys.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var vectorRow = regexp.MustCompile("(?m)^\\| (?:none|`(\".*\")`) \\| `(\".*\")` \\| `(-?[0-9]+)` \\|$")

// People implement docs/keys.md in other languages, so its numbers must be
// right.
func TestSpecifiedVectors(t *testing.T) {
	rows := vectorRow.FindAllStringSubmatch(specification(t), -1)
	if len(rows) < 16 {
		t.Errorf("only %d vectors in docs/keys.md", len(rows))
	}
	for _, row := range rows {
		name, err := strconv.Unquote(row[2])
		if err != nil {
			t.Fatalf("%s: %v", row[0], err)
		}
		key := hashkey.Name(name)
		if row[1] != "" {
			space, err := strconv.Unquote(row[1])
			if err != nil {
				t.Fatalf("%s: %v", row[0], err)
			}
			key = hashkey.Namespace(space).Name(name)
		}
		if number(key) != row[3] {
			t.Errorf("docs/keys.md has %s, but the key is %v", row[0], key)
		}
	}
}

func TestSpecifiedSchemes(t *testing.T) {
	text := specification(t)
	for _, v := range vectors(t) {
		if v.name != "some-lock-name" && v.scheme != "golang-migrate" {
			continue
		}
		if !strings.Contains(text, "| `"+v.key+"`") {
			t.Errorf("docs/keys.md has no row of %s with the key %s", v.scheme, v.key)
		}
	}
}
