package locktest_test

import (
	"context"
	"database/sql"
)

func nothing(context.Context, *sql.Tx) error { return nil }
