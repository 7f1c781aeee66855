package nesting_test

import (
	"context"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/nesting"
)

type pool struct{ _ int }

func TestNesting(t *testing.T) {
	mine, other := new(pool), new(pool)
	a, b := []hashkey.Key{hashkey.Name("a")}, []hashkey.Key{hashkey.Name("b")}
	tx := nesting.With(t.Context(), nesting.Transaction, mine, a)
	session := nesting.With(t.Context(), nesting.Session, mine, a)
	inner, cancel := context.WithCancel(tx)
	defer cancel()
	for name, test := range map[string]struct {
		ctx                  context.Context
		pool                 *pool
		keys                 []hashkey.Key
		transaction, session bool
	}{
		"no callback":                         {t.Context(), mine, a, false, false},
		"the same key":                        {inner, mine, a, true, true},
		"another key":                         {inner, mine, b, true, false},
		"another pool":                        {inner, other, a, false, false},
		"the same key of a session":           {session, mine, a, true, true},
		"another key than a session's":        {session, mine, b, false, false},
		"a session's inside a transaction's":  {nesting.With(inner, nesting.Session, other, b), mine, b, true, false},
		"several keys, one of them a session": {session, mine, append(b, a...), true, true},
	} {
		if got := nesting.Refuses(test.ctx, nesting.Transaction, test.pool, test.keys); got != test.transaction {
			t.Errorf("%s: a transaction is refused: %t", name, got)
		}
		if got := nesting.Refuses(test.ctx, nesting.Session, test.pool, test.keys); got != test.session {
			t.Errorf("%s: a session is refused: %t", name, got)
		}
	}
	tx.Release()
	if nesting.Refuses(inner, nesting.Transaction, mine, a) {
		t.Error("a callback that has returned refuses")
	}
}
