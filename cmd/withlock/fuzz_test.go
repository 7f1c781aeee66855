package main

import (
	"errors"
	"flag"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Any command line is understood, asks for help, or has an error that names
// what is wrong with it, on one line.
func FuzzParse(f *testing.F) {
	for _, line := range []string{
		"job ls", "-n job ls -l -n", "-- -job ls", "--wait=2s job ls", "-s job --db URL -w=0s -- -- ls", "job -c ls",
		"--list --json", "--list job", "--doctor --db URL", "--doctor job", "-h", "--version",
		"--key pair job,1 ls", "--key int64 7 ls", "--key x job ls", "--slots 0 job ls", "-E 256 job ls",
		"--kill-after -1s job ls", "-w 5 job ls", "--on-lost= job ls", "job -x", "-=", "--\nx job ls", "---x", "-w", "job -n ls", "job - ls",
	} {
		f.Add(strings.ReplaceAll(line, " ", "\x00"))
	}
	f.Fuzz(func(t *testing.T, line string) { // no argument can have a NUL
		args := strings.Split(line, "\x00")
		o, err := parse(args)
		if failed := (*failure)(nil); errors.As(err, &failed) {
			if failed.code != exitUsage || strings.ContainsAny(failed.reason, "\n\r\x1b") || !namesFault(failed.reason, args) {
				t.Errorf("%q: code %d, %q", args, failed.code, failed.reason)
			}
			return
		}
		if err != nil {
			if err != flag.ErrHelp {
				t.Errorf("%q: %v", args, err)
			}
			return
		}
		runs := !o.version && !o.list && !o.doctor
		if runs && (o.name == "" || len(o.command) == 0 || o.command[0] == "") {
			t.Errorf("%q: nothing to run: %+v", args, o)
		}
		if !o.version && (o.wait < 0 || o.killAfter < 0 || o.minHold < 0 || o.connectWait < 0 || o.slots < 1 || o.conflictCode < 0 || o.conflictCode > 255) {
			t.Errorf("%q: %+v", args, o)
		}
	})
}

// namesFault reports whether a message names a flag of the line, or what is
// missing.
func namesFault(message string, args []string) bool {
	if strings.Contains(message, "NAME") || strings.Contains(message, "COMMAND") {
		return true
	}
	return slices.ContainsFunc(args, func(arg string) bool {
		name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		return strings.HasPrefix(arg, "-") && strings.Contains(message, printable(name))
	})
}

// The password of a connection string is in no error, and in nothing that an
// error of connecting shows.
func FuzzDSN(f *testing.F) {
	const secret = "hunter2hunter2"
	for _, s := range [][4]string{
		{"postgres://app:", "", "", "@host/db?sslmode=disable"},
		{"postgres://app:", "", "/", "@host:5432/db"},
		{"postgres://app:", "12/", "", "@host/db"},
		{"postgres://app:", "12?", "", "@host/db"},
		{"postgres://app:", "12#", "", "@host/db"},
		{"postgres://app:", "@", "", "@host/db"},
		{"postgres://app:", "%zz", "", "@host/db"},
		{"postgres://app:", ":", "[", "@host/db"},
		{"postgres://app:", "1,2:", "", "@host/db"},
		{"postgresql+psycopg://app:", "", "", "@host/db"},
		{"postgres://host/db?user=app&password=", "", "", "&sslmode=nonsense"},
		{"host=h password=", "", "", " port=x"},
		{"host=h password=", "", "", " service=none"},
		{"host=h password='", "", "", " port=1"},
		{"host=h password='", `\'`, `\`, "'"},
		{"sslrootcert= password=", "", "", " host=h"},
		{"service= password=", "", "", " host=h"},
		{"host= password=", "", "", " user=u"},
		{"application_name= password=", "", "", " user=u"},
		{"sslmode= password=", "", "", " user=u"},
		{"host=h password=", "two ", "", " user=u"},
	} {
		f.Add(s[0], s[1], s[2], s[3])
	}
	f.Fuzz(func(t *testing.T, head, before, after, tail string) {
		if !showsPassword(head, before, after, tail) {
			return
		}
		text := head + before + secret + after + tail
		config, err := parseDSN(text)
		if err != nil {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		for _, part := range shownParts(config) {
			if strings.Contains(part, secret) {
				t.Errorf("%q: an error of connecting would show %q", text, part)
			}
		}
	})
}

// nextName matches what may be the end of a parameter's name.
var nextName = regexp.MustCompile(`^[\w.]*\s*=`)

// showsPassword reports whether a reader of the text sees a password between
// before and after. One that has parameters in it nobody can tell from
// parameters.
func showsPassword(head, before, after, tail string) bool {
	if strings.Contains(before+after, "=") || nextName.MatchString(after+tail) {
		return false
	}
	if scheme := schemePattern.FindString(head); scheme != "" && strings.HasSuffix(head, ":") {
		return !strings.ContainsAny(head, "?#=@") && strings.HasPrefix(tail, "@")
	}
	earlier, isQuoted := strings.CutSuffix(head, "'")
	earlier, ok := strings.CutSuffix(earlier, "password=")
	return ok && strings.Count(earlier, "'")%2 == 0 && !strings.Contains(earlier, `\`) && (!isQuoted || !strings.Contains(before, "'"))
}
