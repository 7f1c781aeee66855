package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/hashkey/interop"
)

func TestParse(t *testing.T) {
	type line struct {
		name    string
		command []string
		db      string
		try     bool
		wait    time.Duration
	}
	for text, want := range map[string]line{
		"job ls":                         {name: "job", command: []string{"ls"}},
		"job -- ls":                      {name: "job", command: []string{"ls"}},
		"-- job ls":                      {name: "job", command: []string{"ls"}},
		"-- -job ls":                     {name: "-job", command: []string{"ls"}},
		"-n job ls -l -n":                {name: "job", command: []string{"ls", "-l", "-n"}, try: true},
		"job -- -ls":                     {name: "job", command: []string{"-ls"}},
		"job -- -- ls":                   {name: "job", command: []string{"--", "ls"}},
		"job ls -- -w":                   {name: "job", command: []string{"ls", "--", "-w"}},
		"--wait=2s job ls":               {name: "job", command: []string{"ls"}, wait: 2 * time.Second},
		"-w 0s job ls":                   {name: "job", command: []string{"ls"}, try: true},
		"job --db URL -- ls -n":          {name: "job", command: []string{"ls", "-n"}, db: "URL"},
		"job --db=URL -n -- ls --":       {name: "job", command: []string{"ls", "--"}, db: "URL", try: true},
		"-s job --db URL -w=0s -- -- ls": {name: "job", command: []string{"--", "ls"}, db: "URL", try: true},
		"--db A job --db B -- ls":        {name: "job", command: []string{"ls"}, db: "B"},
		"-c ls job":                      {name: "job", command: []string{"/bin/sh", "-c", "ls"}},
		"job -c ls":                      {name: "job", command: []string{"/bin/sh", "-c", "ls"}},
		"-n job -c ls --":                {name: "job", command: []string{"/bin/sh", "-c", "ls"}, try: true},
	} {
		o, err := parse(strings.Fields(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got := line{o.name, o.command, o.db, o.try, o.wait}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(line{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		"-w 5 job ls":                `invalid value "5" for flag -w: a unit is missing, such as in 5s or 5m`,
		"--min-hold 5 job ls":        "a unit is missing",
		"--min-hold -5s job ls":      "--min-hold is negative",
		"--connect-wait -5s job ls":  "--connect-wait is negative",
		"--dead-client 10ms job ls":  "--dead-client is less than a second: 10ms",
		"--slots 0 job ls":           "--slots is not between 1 and 10000: 0",
		"--slots 2 -s job ls":        "-s (--shared) and --slots exclude each other",
		"--on-lost= job ls":          "the text of --on-lost is empty",
		"--json job ls":              "--json goes with --list",
		"--watch job ls":             "--watch goes with --list",
		"--list -c ls":               "--list takes no COMMAND",
		"--list -n":                  "--list does not go with -n",
		"--list --connect-wait 3s":   "--list does not go with --connect-wait",
		"--doctor --connect-wait 3s": "--doctor does not go with --connect-wait",
		"--doctor -v":                "--doctor does not go with -v",
		"-c ls job ls":               `-c and COMMAND exclude each other: "ls"`,
		"-c= job":                    "the text of -c is empty",
		"-n --wait 5s job ls":        "exclude each other",
		"--conflict-exit-code 9 job": "no COMMAND given",
	} {
		if o, err := parse(strings.Fields(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v, want %s", text, o, err, want)
		}
	}
}

func TestKeys(t *testing.T) {
	for _, test := range []struct {
		scheme, name, number string
		key                  hashkey.Key
	}{
		{"name", "job", "659288139682042693", hashkey.Name("job")},
		{"advisory-lock", "nightly", "-1251853526,379575101", interop.AdvisoryLock("nightly")},
		{"int64", "-7", "-7", hashkey.Int64(-7)},
		{"pair", "7, -2", "7,-2", hashkey.Pair(7, -2)},
	} {
		key, err := parseKey(test.scheme, test.name)
		if err != nil || key != test.key {
			t.Errorf("%s %q: %v, %v, want %v", test.scheme, test.name, key, err, test.key)
		}
		if got := keyNumber(key); got != test.number {
			t.Errorf("%s %q: number %s, want %s", test.scheme, test.name, got, test.number)
		}
	}
}

func TestHelpFitsAScreen(t *testing.T) {
	lines := strings.Split(strings.TrimSuffix(help, "\n"), "\n")
	if len(lines) > 24 {
		t.Errorf("%d lines", len(lines))
	}
	for _, line := range lines {
		if len(line) > 80 {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
}
