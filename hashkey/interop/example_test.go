package interop_test

import (
	"fmt"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/hashkey/interop"
)

// The lock that "withlock nightly-report" takes, the command of the npm package.
func ExampleAdvisoryLock() {
	fmt.Println(interop.AdvisoryLock("nightly-report"))
	// Output: "nightly-report" (280642407, -2017152350)
}

func ExampleJavaString() {
	fmt.Println(interop.JavaString("some-lock-name"))
	// Thirty-two bits of a weak hash:
	fmt.Println(hashkey.Compare(interop.JavaString("Aa"), interop.JavaString("BB")) == 0)
	// Output:
	// "some-lock-name" (-1660514220)
	// true
}

// The lock of "select pg_advisory_lock(hashtextextended('some-lock-name', 0))".
func ExampleHashTextExtended() {
	fmt.Println(interop.HashTextExtended("some-lock-name", 0))
	// Output: "some-lock-name" (-8293656362537385281)
}

func ExampleDistributedLock() {
	for _, name := range []string{"nightly", "0000000000000007", "00000001,00000002", "some-lock-name"} {
		key, err := interop.DistributedLock(name)
		if err != nil {
			panic(err)
		}
		fmt.Println(key)
	}
	// Output:
	// "nightly" (-576242034, -1690517505)
	// "0000000000000007" (7)
	// "00000001,00000002" (1, 2)
	// "some-lock-name" (-6740764667712763897)
}

func ExampleDistributedLockExact() {
	_, err := interop.DistributedLockExact("some-lock-name")
	fmt.Println(err != nil)
	// Output: true
}

// golang-migrate names the database in two ways.
func ExampleGolangMigrate() {
	// pgx.WithInstance(db, &pgx.Config{})
	fmt.Println(interop.GolangMigrate("mydb", "public", "schema_migrations"))
	// migrate.New(source, "pgx5://localhost/mydb")
	fmt.Println(interop.GolangMigrate("/mydb", "public", "schema_migrations"))
	// Output:
	// "mydb/public/schema_migrations" (2103762914)
	// "/mydb/public/schema_migrations" (616192132)
}

// A name becomes two keys while old and new processes run side by side: those
// that are already changed hold both.
func Example_movingAway() {
	const name = "some-lock-name"
	both := []hashkey.Key{interop.AdvisoryLock(name), hashkey.Name(name)}
	// err := locker.WithTxAll(ctx, both, fn)
	for _, key := range both {
		fmt.Println(key)
	}
	// Output:
	// "some-lock-name" (1253560211, -1237456625)
	// "some-lock-name" (8131770842228927322)
}
