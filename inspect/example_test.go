package inspect_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/inspect"
)

// Who is in the way?
func ExampleOf() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	db, err := sql.Open("pgx", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	locks, err := inspect.Of(ctx, db, hashkey.Name("nightly-report"))
	if err != nil {
		log.Fatal(err)
	}
	for _, lock := range locks {
		if lock.Granted {
			fmt.Printf("%v is held by %s (pid %d) since %v\n", lock.Key, lock.Application, lock.PID, lock.Since)
		}
	}
}
