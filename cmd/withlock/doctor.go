package main

import (
	"database/sql"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// A doctor tries whether the locks of a server keep what the packages promise.
// It takes locks under a name of its own on two connections, looks, and frees
// them. Its statements have no names, so that it leaves no prepared statement on a
// session of a pooler.
type doctor struct {
	*program
	report

	db       *sql.DB           // the product's calls are made on it, and two is of it
	one, two *probe            // two clients of the server
	key      hashkey.Key       // no other client uses it
	settings map[string]string // of the role, by name; times have no unit
	standby  bool
	between  pooling
	blind    bool // pg_locks does not show the locks of another session
	ids      int  // transaction ids that were used

	xactErr, sessionErr error // why the packages refuse the server
}

// pooling is what stands between a client and the server.
type pooling int

const (
	noPooler pooling = iota
	poolsSessions
	poolsTransactions
	poolsStatements
)
