package pgtest_test

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
)

// childVariable makes this test program run child instead of the tests.
const childVariable = "PGTEST_TEST_CHILD"

// child starts a server with PgBouncer in front, prints their DSNs and ends
// without closing either, when standard input does or somebody kills it.
func child() int {
	ctx := context.Background()
	s, err := pgtest.Start(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(s.DSN())
	bouncer, err := pgtest.StartBouncer(ctx, s.DSN(), "transaction")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(bouncer.DSN())
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
