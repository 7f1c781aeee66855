package main

import (
	"bufio"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

// fact is a line of what the numbers depend on.
type fact struct{ name, value string }

// facts describes the machine, the versions and the moment.
func facts(serverVersion string, b *bench) []fact {
	all := []fact{
		{"Date", time.Now().UTC().Format("2006-01-02 15:04 UTC")},
		{"CPU", cpuModel()},
		{"Cores", strconv.Itoa(runtime.NumCPU())},
		{"Kernel", release(output("uname", "-sr"))},
		{"Go", strings.TrimPrefix(runtime.Version(), "go")},
		{"PostgreSQL", serverVersion},
		{"Run", b.name},
		{"Context of a turn", contextName(!b.background)},
	}
	return append(all, modules()...)
}

// release cuts what a distributor or a host adds to the version of a kernel.
func release(kernel string) string {
	version, _, _ := strings.Cut(kernel, "-")
	return version
}

func contextName(cancellable bool) string {
	if cancellable {
		return "can be cancelled"
	}
	return "cannot be cancelled"
}

// modules returns the versions of the competitors that are built into this
// program.
func modules() []fact {
	versions := map[string]string{}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			versions[dep.Path] = dep.Version
		}
	}
	var all []fact
	for _, c := range explained() {
		f := fact{c.module, versions[c.module]}
		if c.module != "" && !slices.Contains(all, f) {
			all = append(all, f)
		}
	}
	return all
}

// cpuModel asks Linux, then macOS; what neither knows is named by its family.
func cpuModel() string {
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	if model := output("sysctl", "-n", "machdep.cpu.brand_string"); model != unknown {
		return model
	}
	return runtime.GOARCH
}

const unknown = "unknown"

// output is what a command prints, or unknown: no measurement shall fail
// because the machine does not say what it is.
func output(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return unknown
	}
	return strings.TrimSpace(string(out))
}
