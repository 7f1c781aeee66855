package locksql

import "strings"

// Setting is a server setting and its value, as SHOW shows it.
type Setting struct{ Name, Value string }

// known is true for a setting s that the server has and can change. Only on
// Linux has client_connection_check_interval been there from the beginning;
// elsewhere setting it may be an error.
const known = "pg_catalog.current_setting(s.name, true) is not null and " +
	"case when s.name operator(pg_catalog.=) 'client_connection_check_interval' " +
	"then pg_catalog.strpos(pg_catalog.version(), 'linux') operator(pg_catalog.>) 0 else true end"

// set sets s.
const set = "pg_catalog.set_config(s.name, s.value, false)"

// table returns settings as a FROM item s(name, value).
func table(settings []Setting) string {
	rows := make([]string, len(settings))
	for i, s := range settings {
		rows[i] = "(" + quote(s.Name) + ", " + quote(s.Value) + ")"
	}
	return "(values " + strings.Join(rows, ", ") + ") as s(name, value)"
}

// reset returns expressions, each after a comma, that give saved settings their
// defaults back, and are the defaults. A setting that only had its default must not
// look as if the session had set it: it would miss the next change of the default.
func reset(saved []Setting) string {
	var all strings.Builder
	for _, s := range saved {
		all.WriteString(", pg_catalog.set_config(" + quote(s.Name) + ", null, false)")
	}
	return all.String()
}

// SetAgain gives the session settings.
func SetAgain(settings []Setting) Message {
	return Select("select " + set + " from " + table(settings))
}

// quote writes a string constant.
func quote(value string) string {
	return "'" + strings.ReplaceAll(value, "'", "''") + "'"
}
