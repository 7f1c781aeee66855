// Command withlock runs a command while it holds a PostgreSQL advisory lock,
// so that of many machines that run the same line one does the work:
//
//	withlock nightly-report -- ./report.sh
//
// docs/withlock.md is its manual.
package main

import (
	"context"
	"os"
)

func main() {
	asHelper()
	end := run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	end.die()
	os.Exit(end.code)
}
