package main

import "runtime/debug"

// version returns what the binary was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "withlock (unknown version)"
	}
	return "withlock " + info.Main.Version + " " + info.GoVersion
}
