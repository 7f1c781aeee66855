package main

import (
	"database/sql"
	"fmt"
	"os"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// program is one run of withlock.
type program struct {
	*options
	stdin, stdout, stderr *os.File
	db                    *sql.DB
}

// label is what messages call the lock.
func (p *program) label() string { return fmt.Sprintf("%q", p.name) }

// keys returns the locks of which one is wanted.
func (p *program) keys() []hashkey.Key { return locksql.Slots(p.key, p.slots) }
