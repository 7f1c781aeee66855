package main

import (
	"database/sql"
	"fmt"
	"os"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// program is one run of withlock.
type program struct {
	*options
	env                   []string
	stdin, stdout, stderr *os.File
	db                    *sql.DB
}

// label is what messages call the lock.
func (p *program) label() string { return fmt.Sprintf("%q", p.name) }

// keys returns the locks of which one is wanted.
func (p *program) keys() []hashkey.Key {
	all := make([]hashkey.Key, max(1, p.slots))
	for i := range all {
		all[i] = p.key.Slot(i)
	}
	return all
}
