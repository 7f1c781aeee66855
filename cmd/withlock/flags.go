package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// options are what the command line says.
type options struct {
	db           string
	try          bool
	wait         time.Duration // 0: as long as it takes
	shared       bool
	conflictCode int
	scheme       string
	killAfter    time.Duration
	pooler       bool
	verbose      bool
	slots        int // how many may have the lock at once
	minHold      time.Duration
	deadClient   time.Duration // 0: the library's default
	connectWait  time.Duration
	onLost       string // shell text
	shell        string // the same, in COMMAND's place
	list         bool
	json         bool
	watch        bool
	doctor       bool
	version      bool

	name    string      // "" only with doctor, and with list, which then means all
	key     hashkey.Key // of name
	command []string

	connectWaitGiven bool
}

// flagSet returns the flags, which set o. stdlib's own messages would go to
// stderr with all the flags after them; the error alone says enough.
func flagSet(o *options) *flag.FlagSet {
	fs := flag.NewFlagSet("withlock", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&o.db, "db", "", "")
	for _, name := range []string{"n", "try"} {
		fs.BoolVar(&o.try, name, false, "")
	}
	for _, name := range []string{"w", "wait"} {
		fs.Var((*duration)(&o.wait), name, "")
	}
	for _, name := range []string{"s", "shared"} {
		fs.BoolVar(&o.shared, name, false, "")
	}
	for _, name := range []string{"E", "conflict-exit-code"} {
		fs.IntVar(&o.conflictCode, name, 1, "")
	}
	fs.StringVar(&o.scheme, "key", "name", "")
	o.killAfter = 5 * time.Second
	fs.Var((*duration)(&o.killAfter), "kill-after", "")
	fs.BoolVar(&o.pooler, "pooler", false, "")
	for _, name := range []string{"v", "verbose"} {
		fs.BoolVar(&o.verbose, name, false, "")
	}
	fs.StringVar(&o.shell, "c", "", "")
	fs.IntVar(&o.slots, "slots", 1, "")
	fs.Var((*duration)(&o.minHold), "min-hold", "")
	fs.Var((*duration)(&o.deadClient), "dead-client", "")
	fs.Var((*duration)(&o.connectWait), "connect-wait", "")
	fs.StringVar(&o.onLost, "on-lost", "", "")
	fs.BoolVar(&o.list, "list", false, "")
	fs.BoolVar(&o.json, "json", false, "")
	fs.BoolVar(&o.watch, "watch", false, "")
	fs.BoolVar(&o.doctor, "doctor", false, "")
	fs.BoolVar(&o.version, "version", false, "")
	return fs
}

// duration is a flag.Value, as that of flag.Duration but for its errors.
type duration time.Duration

func (d *duration) String() string { return time.Duration(*d).String() }

func (d *duration) Set(text string) error {
	parsed, err := time.ParseDuration(text)
	if _, numberErr := strconv.ParseFloat(text, 64); err != nil && numberErr == nil {
		return fmt.Errorf("a unit is missing, such as in %ss or %sm", text, text)
	}
	if err != nil {
		return errors.New("no duration, such as 30s or 5m")
	}
	*d = duration(parsed)
	return nil
}

// parse reads the command line. Its error is flag.ErrHelp or a failure.
func parse(args []string) (*options, error) {
	o := new(options)
	fs := flagSet(o)
	if err := parseFlags(fs, args); err != nil {
		return nil, err
	}
	if o.version {
		return o, nil
	}
	if rest := fs.Args(); len(rest) > 0 {
		o.name = rest[0]
		if err := o.parseCommand(fs, rest[1:]); err != nil {
			return nil, err
		}
	} else if !o.list && !o.doctor {
		return nil, usageError("no NAME given")
	}
	if o.doctor {
		return o, o.validateDoctor(fs)
	}
	return o, o.validate(fs)
}

func parseFlags(fs *flag.FlagSet, args []string) error {
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return usageError("%s", printable(err.Error()))
	}
	return nil
}

// printable returns text without what would not print on one line of a terminal,
// which an argument that is no flag may have.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// parseCommand reads what stands after NAME: a command, or flags in the order
// of the npm tool, which need a "--" before the command. No command begins
// with a dash, so that one is told from the other.
func (o *options) parseCommand(fs *flag.FlagSet, args []string) error {
	if len(args) > 0 && strings.HasPrefix(args[0], "-") {
		if err := parseFlags(fs, args); err != nil {
			return err
		}
		flags := len(args) - fs.NArg()
		if fs.NArg() > 0 && (flags == 0 || args[flags-1] != "--") {
			return usageError("%q after NAME and its flags: a -- is missing before COMMAND", fs.Arg(0))
		}
		args = fs.Args()
	}
	o.command = args
	return nil
}

// validate checks what one flag alone does not tell, and finds the key.
func (o *options) validate(fs *flag.FlagSet) error {
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	for _, check := range []func(map[string]bool) error{o.checkTimes, o.checkLock, o.checkCommand} {
		if err := check(given); err != nil {
			return err
		}
	}
	if o.list {
		if err := goesWith(fs, "list", "json", "watch", "db", "key", "pooler", "slots"); err != nil {
			return err
		}
	}
	o.connectWaitGiven = given["connect-wait"]
	if given["w"] || given["wait"] {
		o.try = o.wait == 0 // to wait for no time at all
	}
	var err error
	o.key, err = parseKey(o.scheme, o.name)
	return err
}

func (o *options) checkTimes(given map[string]bool) error {
	for _, d := range []struct {
		flag  string
		value time.Duration
	}{
		{"-w, --wait", o.wait}, {"--kill-after", o.killAfter}, {"--min-hold", o.minHold}, {"--connect-wait", o.connectWait},
	} {
		if d.value < 0 {
			return usageError("%s is negative: %v", d.flag, d.value)
		}
	}
	switch {
	case given["dead-client"] && o.deadClient < time.Second:
		return usageError("--dead-client is less than a second: %v", o.deadClient)
	case o.try && (given["w"] || given["wait"]):
		return usageError("-n (--try) and -w (--wait) exclude each other")
	}
	return nil
}

func (o *options) checkLock(map[string]bool) error {
	switch {
	case o.conflictCode < 0 || o.conflictCode > 255:
		return usageError("-E, --conflict-exit-code is not between 0 and 255: %d", o.conflictCode)
	case o.slots < 1 || o.slots > locksql.MaxSlots:
		return usageError("--slots is not between 1 and %d: %d", locksql.MaxSlots, o.slots)
	case o.shared && o.slots > 1:
		return usageError("-s (--shared) and --slots exclude each other")
	}
	return nil
}

func (o *options) checkCommand(given map[string]bool) error {
	switch {
	case !o.list && o.json:
		return usageError("--json goes with --list")
	case !o.list && o.watch:
		return usageError("--watch goes with --list")
	case o.list && (len(o.command) > 0 || given["c"]):
		return usageError("--list takes no COMMAND")
	case o.list:
		return nil
	case o.name == "":
		return usageError("NAME is empty")
	case given["on-lost"] && strings.TrimSpace(o.onLost) == "":
		return usageError("the text of --on-lost is empty")
	case given["c"] && len(o.command) > 0:
		return usageError("-c and COMMAND exclude each other: %q", o.command[0])
	case given["c"] && strings.TrimSpace(o.shell) == "":
		return usageError("the text of -c is empty")
	case given["c"]:
		o.command = shellCommand(o.shell)
	case len(o.command) == 0:
		return usageError("no COMMAND given")
	case o.command[0] == "":
		return usageError("COMMAND is empty")
	}
	return nil
}

// shellCommand returns the command that executes shell text, as cron would.
func shellCommand(text string) []string { return []string{"/bin/sh", "-c", text} }

// validateDoctor checks the command line of a doctor: of all flags only the
// ones that say how to connect mean anything.
func (o *options) validateDoctor(fs *flag.FlagSet) error {
	if o.name != "" || len(o.command) > 0 {
		return usageError("--doctor takes no NAME and no COMMAND")
	}
	return goesWith(fs, "doctor", "db", "pooler")
}

// goesWith checks that of all flags only some were given together with one.
func goesWith(fs *flag.FlagSet, one string, some ...string) (err error) {
	fs.Visit(func(f *flag.Flag) {
		if f.Name != one && !slices.Contains(some, f.Name) {
			err = usageError("--%s does not go with %s", one, dashed(f.Name))
		}
	})
	return err
}

// dashed returns the name of a flag as it is written.
func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}
