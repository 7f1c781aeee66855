package locksql

import (
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// Statement is one statement of a message.
type Statement struct {
	SQL    string // with $1, $2, … in the place of Params
	Name   string // of the prepared statement; "": see PreparedName
	Params []Param
	Tag    string // how the server's command tag begins, if the statement succeeds; "" for any
	Answer Answer // what its row is
}

// PreparedName is the name of the prepared statement. It says what its text is: it does
// not matter then which client has prepared it. It is the text, or where that is too long
// (NAMEDATALEN) a hash of it.
func (s Statement) PreparedName() string {
	const longest = 63
	switch {
	case s.Name != "":
		return s.Name
	case len(s.SQL) <= longest:
		return s.SQL
	}
	return "pgadvisory " + strconv.FormatUint(xxhash.Sum64String(s.SQL), 16)
}

// Param is a parameter of a statement: a number, which goes as text, and its type
// where the text alone does not say it.
type Param struct {
	Number int64
	Type   string
}

// Answer is what the row of a statement means.
type Answer int

// The answers.
const (
	Nothing Answer = iota
	Granted        // one boolean: true if the lock is granted; no row on a hot standby
	Locked         // one row, of whatever, when the lock is granted; none on a hot standby
	PID            // the process id of the server session
	Rows           // any number of rows
)

// Message is statements that are sent as one.
type Message struct {
	Statements []Statement
	Prepare    bool        // the statements are the same for all keys, and worth preparing
	Follow     []Statement // what is sent later, and prepared with these
}

// add adds a statement whose success has a tag that begins with tag.
func (m *Message) add(tag, sql string) {
	m.Statements = append(m.Statements, Statement{SQL: sql, Tag: tag})
}

// addWith adds a select that has params.
func (m *Message) addWith(params []Param, sql string) {
	m.Statements = append(m.Statements, Statement{SQL: sql, Params: params, Tag: "SELECT"})
}

// ask adds a select that answers whether the lock is granted.
func (m *Message) ask(expression string) {
	m.Statements = append(m.Statements, Statement{SQL: "select " + expression + onPrimary, Tag: "SELECT", Answer: Granted})
}

// onPrimary keeps a select from locking on a hot standby, where that would exclude no
// client of the primary. The server is asked each time, in the statement that locks:
// what a connection said when it began (in_hot_standby) can be what a pooler remembers
// of another server, or of this one before a failover.
const onPrimary = " where not " + standbySQL

// standbySQL is true on a hot standby.
const standbySQL = "pg_catalog.pg_is_in_recovery()"

// After returns m with one statement more before all others.
func (m Message) After(first Statement) Message {
	m.Statements = append([]Statement{first}, m.Statements...)
	return m
}

// Text returns the message as one text of the simple query protocol.
func (m Message) Text() string {
	var b strings.Builder
	b.Grow(128 * len(m.Statements))
	for i, s := range m.Statements {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(s.Text())
	}
	return b.String()
}

// Text returns the statement with its parameters written into it, quoted: a
// bare -9223372036854775808 is the numeric 9223372036854775808 with a minus
// before it, and no function takes that.
func (s Statement) Text() string {
	text := s.SQL
	for i, p := range s.Params {
		value := "'" + strconv.FormatInt(p.Number, 10) + "'"
		if p.Type != "" {
			value += "::" + p.Type
		}
		text = strings.Replace(text, "$"+strconv.Itoa(i+1), value, 1)
	}
	return text
}

// Rollback ends a transaction, whatever its state.
var Rollback = Statement{SQL: "rollback", Tag: "ROLLBACK"}

// One returns the message of one statement.
func One(s Statement) Message { return Message{Statements: []Statement{s}} }

// Select returns the message of one select.
func Select(sql string) Message { return Message{}.Select(sql) }

// Select returns m with a select added.
func (m Message) Select(sql string) Message {
	m.Statements = append(m.Statements, Statement{SQL: sql, Tag: "SELECT", Answer: Rows})
	return m
}
