package main

import (
	"slices"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"github.com/pgadvisory/pgadvisory/examples/webapp/accountsdb"
	"github.com/pgadvisory/pgadvisory/pgxlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// style is a way to write an accountStore. All of them take the same locks.
type style struct {
	name     string // what -style says
	row      string // what the demonstration's table says
	accounts func(p *pools, o xactlock.Options, think time.Duration) accountStore
}

var styles = []style{
	{"sql", "xactlock", func(p *pools, o xactlock.Options, think time.Duration) accountStore {
		return &sqlAccounts{db: p.db, locker: xactlock.New(p.db).With(o), think: think}
	}},
	{"pgx", "pgxlock, sqlc", func(p *pools, o xactlock.Options, think time.Duration) accountStore {
		return &pgxAccounts{queries: accountsdb.New(p.pgx), locker: pgxlock.New(p.pgx).With(o), think: think}
	}},
	{"bun", "xactlock, bun", func(p *pools, o xactlock.Options, think time.Duration) accountStore {
		return &bunAccounts{db: bun.NewDB(p.db, pgdialect.New()), locker: xactlock.New(p.db).With(o), think: think}
	}},
}

// styleOf returns the style called name, if there is one.
func styleOf(name string) (style, bool) {
	i := slices.IndexFunc(styles, func(s style) bool { return s.name == name })
	if i < 0 {
		return style{}, false
	}
	return styles[i], true
}
