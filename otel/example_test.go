package pgadvisoryotel_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/pgadvisory/pgadvisory/hashkey"
	pgadvisoryotel "github.com/pgadvisory/pgadvisory/otel"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// One Telemetry for all Lockers. What fn does with its ctx is beneath the span of
// the hold.
func Example() {
	spans := tracetest.NewSpanRecorder() // in place of an exporter
	telemetry, err := pgadvisoryotel.New(pgadvisoryotel.Options{
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)),
		Names:          true,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	db := sql.OpenDB(away{}) // in place of a server
	locker := xactlock.New(db).With(xactlock.Options{Trace: telemetry})
	leader := sessionlock.New(db).With(sessionlock.Options{Trace: telemetry.Session})

	ctx := context.Background()
	_ = locker.WithTx(ctx, hashkey.Namespace("accounts").ID(42), func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `update accounts set balance = 0 where id = $1`, 42)
		return err
	})
	_, _ = leader.TryLock(ctx, hashkey.Name("clock"))

	for _, span := range spans.Ended() {
		fmt.Printf("%s: %s\n", span.Name(), span.Status().Description)
	}
	// Output:
	// lock wait accounts: xactlock: "accounts/42" (-286207215604641505): the database is away
	// lock wait: sessionlock: "clock" (-8401010515287813777): the database is away
}

// away is a database that cannot be reached.
type away struct{}

func (away) Connect(context.Context) (driver.Conn, error) {
	return nil, errors.New("the database is away")
}
func (away) Driver() driver.Driver { return nil }
