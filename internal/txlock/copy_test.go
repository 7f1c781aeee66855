package txlock_test

import (
	"testing"

	"github.com/pgadvisory/pgadvisory/internal/txlock"
)

// A COPY whose rows the client would send is refused, and nothing else that speaks
// of one.
func TestRefuse(t *testing.T) {
	for query, want := range map[string]bool{
		`copy t from stdin`:                                   true,
		" \n;COPY t FROM STDIN WITH (FORMAT csv);":            true,
		"/* a * b */ -- copy\n copy t from stdin":             true,
		"copy t -- to\nfrom /* here */ stdin":                 true,
		`copy binary public . "a table" (a, "b)") from stdin`: true,
		`copy "a ""(t"(n)from stdin csv`:                      true,
		`copy t from stdout`:                                  true,

		`copy t to stdout`: false,
		`copy (select 'copy t from stdin') to stdout`:                          false,
		`copy (select n from stdin) to stdout`:                                 false,
		`copy t from '/from stdin' where n > 0`:                                false,
		`copy t from program 'cat' -- from stdin`:                              false,
		`copy t (n) to stdout -- from stdin`:                                   false,
		"-- copy t from stdin\nselect 1":                                       false,
		"/* copy t from stdin */ select 1":                                     false,
		"/* */ select 1 /* */ copy t from stdin":                               false,
		`insert into t values ('copy t from stdin')`:                           false,
		`create function f() returns void as 'copy t from stdin' language sql`: false,
		``: false,
	} {
		if err := new(txlock.Call).Refuse(query); (err != nil) != want {
			t.Errorf("%s: %v, want an error: %t", query, err, want)
		}
	}
}
