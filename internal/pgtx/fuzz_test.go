package pgtx_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/pgfake"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
	"github.com/pgadvisory/pgadvisory/internal/txlock"
)

// A reading is what a stream of bytes from the server says, to a reader that
// knows nothing but the framing of messages. It ends at the first error, at
// ReadyForQuery, and where the stream is no message.
type reading struct {
	tags    []string   // of the statements that succeeded
	certain int        // how many of them came first, in messages without a flaw
	rows    [][]string // the first values of the rows before each tag
	errored bool       // an error was there
	failure string     // its severity
	routine bool       // which names the routine, as PostgreSQL does
	ended   bool       // ReadyForQuery was there
	length  int        // of what was read
}

func read(stream []byte) (r reading) {
	var rows []string
	onlyTags := true
	for len(stream)-r.length >= 5 {
		message := stream[r.length:]
		n := int64(binary.BigEndian.Uint32(message[1:]))
		if n < 4 || n+1 > int64(len(message)) {
			return r
		}
		body := message[5 : n+1]
		r.length += int(n) + 1
		onlyTags = onlyTags && message[0] == 'C'
		switch message[0] {
		case 'C':
			tag, rest, whole := bytes.Cut(body, []byte{0})
			if r.certain == len(r.tags) && onlyTags && whole && len(rest) == 0 {
				r.certain++
			}
			r.tags, r.rows, rows = append(r.tags, string(tag)), append(r.rows, rows), nil
		case 'D':
			if len(body) > 6 && body[0]|body[1] != 0 { // it has a value
				length := min(uint64(binary.BigEndian.Uint32(body[2:])), uint64(len(body)-6))
				rows = append(rows, string(body[6:6+length]))
			}
		case 'E':
			r.errored = true
			r.failure, r.routine = readError(body)
			return r
		case 'Z':
			r.ended = true
			return r
		}
	}
	return r
}

// readError reads the fields of an error, of which the last of a kind counts.
func readError(body []byte) (severity string, routine bool) {
	localized := true
	for field := range bytes.SplitSeq(body, []byte{0}) {
		switch {
		case len(field) == 0:
			return severity, routine // the end
		case field[0] == 'S' && localized:
			severity = string(field[1:])
		case field[0] == 'V' && len(field) > 1:
			severity, localized = string(field[1:]), false
		case field[0] == 'R':
			routine = len(field) > 1
		}
	}
	return severity, routine
}

// failed reports whether the statement with the index was not executed, because
// the server said so: a statement has failed, or the session was ended before
// the server began with it. A pooler does not know.
func (r reading) failed(index int) bool {
	return r.failure == "ERROR" || r.errored && r.routine && len(r.tags) < index
}

// has reports whether the first tags begin as wanted.
func (r reading) has(want ...string) bool {
	if len(r.tags) < len(want) {
		return false
	}
	for i, w := range want {
		if !strings.HasPrefix(r.tags[i], w) {
			return false
		}
	}
	return true
}

// stream encodes messages.
func stream(tb testing.TB, all ...pgproto3.BackendMessage) (b []byte) {
	tb.Helper()
	for _, m := range all {
		var err error
		if b, err = m.Encode(b); err != nil {
			tb.Fatal(err)
		}
	}
	return b
}

// addStreams adds answers to the corpus: whole, without their last byte, and
// after a stale answer.
func addStreams(f *testing.F, answers ...messages) {
	f.Helper()
	stale := stream(f, done("SELECT 1"), ready('I'))
	for _, answer := range answers {
		b := stream(f, answer...)
		f.Add(b)
		f.Add(b[:len(b)-1])
		f.Add(append(stale[:len(stale):len(stale)], b...))
	}
}

// bounded cuts a stream to what a client reads at once. One that leaves the rest
// unread waits for a server that still writes, a quarter of a second each time. It
// cuts before a message that says it is longer: a client makes room for it.
func bounded(b []byte) []byte {
	const most = 4 << 10
	b = b[:min(len(b), most)]
	length := read(b).length
	if rest := b[length:]; len(rest) >= 5 && binary.BigEndian.Uint32(rest[1:]) > most {
		return b[:length]
	}
	return b
}

// returnsSoon ends the process, which keeps the input, if the call hangs.
func returnsSoon(answer []byte) (stop func() bool) {
	return time.AfterFunc(20*time.Second, func() { panic(fmt.Sprintf("the call hangs after the answer %q", answer)) }).Stop
}

// Whatever comes back for a message that commits, it is a commit if RELEASE and
// COMMIT were answered, and never a failure then. A failure has been said.
func FuzzCommit(f *testing.F) {
	notice := &pgproto3.NoticeResponse{Severity: "WARNING", Code: "01000", Message: "m"}
	addStreams(f,
		committed,
		messages{notice, done("RELEASE"), notice, done("COMMIT"), notice, ready('I')},
		messages{done("RELEASE"), done("ROLLBACK"), ready('I')},
		messages{done("RELEASE"), done("COMMIT"), failure("FATAL", "57P01")},
		messages{done("RELEASE"), failure("ERROR", "40001"), ready('I')},
		messages{done("RELEASE"), failure("FATAL", "57P01")},
		messages{failure("ERROR", "3B001"), ready('E')},
		messages{&pgproto3.EmptyQueryResponse{}, done("RELEASE"), done("COMMIT"), ready('I')},
		messages{&pgproto3.ErrorResponse{Severity: "FATAL", Code: "08P01", Message: "server conn crashed?"}},
	)
	f.Fuzz(func(t *testing.T, answer []byte) {
		answer = bounded(answer)
		defer returnsSoon(answer)()
		s := &server{answers: []messages{{pgfake.Raw(answer)}}}
		outcome, err := begin(t, s, locksql.ReadCommitted).Commit(t.Context())
		r := read(answer)
		checkOutcome(t, r, 1, r.has("RELEASE"), outcome, err)
	})
}

// checkOutcome compares an outcome with what the stream says of COMMIT, the
// statement with the index, if those before it were answered as they should.
func checkOutcome(t *testing.T, r reading, index int, before bool, outcome txlock.Outcome, err error) {
	t.Helper()
	answer := ""
	if before && len(r.tags) > index {
		answer = r.tags[index]
	}
	unknown := errors.Is(err, lockerr.ErrCommitUnknown) || errors.Is(err, lockerr.ErrTxEnded)
	switch {
	case (err == nil) != (outcome == txlock.Committed), unknown != (outcome == txlock.Unknown):
		t.Errorf("%v with %v", outcome, err)
	case outcome == txlock.Committed && answer != "COMMIT",
		outcome != txlock.Committed && answer == "COMMIT" && r.certain > index:
		t.Errorf("%v, %v, and the answer says %+v", outcome, err, r)
	case outcome != txlock.Committed && outcome != txlock.Unknown && answer != "ROLLBACK" && (answer != "" || !r.failed(index)):
		t.Errorf("%v, %v, and the answer says %+v", outcome, err, r)
	}
}

// The same of a statement, the lock and COMMIT in one message. What is to be
// done again has not been done.
func FuzzExec(f *testing.F) {
	t := locksql.Transaction{Keys: []hashkey.Key{hashkey.Name("k")}, Level: locksql.ReadCommitted}
	before, after := t.Exec(time.Second)
	var tags []string
	for _, st := range before.Statements {
		tags = append(tags, st.Tag)
	}
	tags = append(tags, "") // any
	index := len(tags)
	for _, st := range after.Statements {
		tags = append(tags, st.Tag)
	}
	if tags[index] != "COMMIT" {
		f.Fatalf("the statement after the caller's is %q", tags[index])
	}
	answer := func(statement string, end ...pgproto3.BackendMessage) (all messages) {
		for _, tag := range tags[:index-1] {
			all = append(all, &pgproto3.ParseComplete{}, &pgproto3.BindComplete{}, row("t"), done(tag))
		}
		return append(append(all, done(statement)), end...)
	}
	addStreams(f,
		answer("UPDATE 3", done("COMMIT"), ready('I')),
		answer("UPDATE 3", done("ROLLBACK"), ready('I')),
		answer("COMMIT", done("COMMIT"), ready('I')),
		answer("UPDATE 3", failure("ERROR", "26000"), ready('I')),
		answer("UPDATE 3", failure("FATAL", "57P01")),
		messages{failure("ERROR", "55P03"), ready('I')},
		messages{failure("ERROR", "26000"), ready('I')},
		messages{failure("FATAL", "25P03")},
	)
	described := messages{&pgproto3.ParseComplete{}, &pgproto3.ParameterDescription{}, &pgproto3.NoData{}, ready('I')}
	f.Fuzz(func(t *testing.T, answer []byte) {
		answer = bounded(answer)
		defer returnsSoon(answer)()
		s := &server{answers: []messages{described, {pgfake.Raw(answer)}}}
		e := begin(t, s, locksql.ReadCommitted).Exec(t.Context(), t.Context(), pgsession.Query{SQL: "update t set n = n + 1"}, time.Second)
		r := read(answer)
		executed := r.has(tags[:index]...) && len(r.tags) > index
		if e.Dead || e.Busy || e.Unfit {
			if executed || !r.failed(index) {
				t.Errorf("it would be done again, and the answer says %+v", r)
			}
			return
		}
		checkOutcome(t, r, index, executed, e.Outcome, e.Err)
	})
}

// grants reports whether every statement was answered, and with true if it asks
// whether the lock is granted.
func (r reading) grants(statements []locksql.Statement) bool {
	if len(r.tags) != len(statements) || !r.ended {
		return false
	}
	for i, st := range statements {
		rows := r.rows[i]
		if !strings.HasPrefix(r.tags[i], st.Tag) || st.Answer == locksql.Granted && (len(rows) == 0 || rows[len(rows)-1] != "t") {
			return false
		}
	}
	return true
}

// A lock is granted if the answer is there to its end and says so.
func FuzzOpen(f *testing.F) {
	snapshot := func(handedOver ...pgproto3.BackendMessage) messages { // the answer at REPEATABLE READ
		all := messages{done("BEGIN"), row("t"), done("SELECT 1"), done("COMMIT"), done("SET")}
		return append(append(all, handedOver...), done("SAVEPOINT"), ready('T'))
	}
	addStreams(f, opened("t"), opened("f"),
		messages{done("BEGIN"), row("f"), row("t"), done("SELECT 2"), done("SAVEPOINT"), ready('T')},
		messages{done("BEGIN"), row("t"), row("f"), done("SELECT 2"), done("SAVEPOINT"), ready('T')},
		messages{done("BEGIN"), row("t"), done("SELECT 1"), ready('T')},
		messages{done("BEGIN"), row("t"), done("UPDATE 1"), done("SAVEPOINT"), ready('T')},
		messages{row("t"), done("BEGIN"), done("SELECT 0"), done("SAVEPOINT"), ready('T')},
		messages{done("BEGIN"), row("t"), done("SELECT 1"), failure("ERROR", "55P03"), ready('E')},
		append(opened("t")[:4:4], failure("ERROR", "XX000"), ready('E')),
		append(opened("t")[:4:4], failure("FATAL", "57P01")),
		snapshot(row("t"), done("SELECT 1")),
		snapshot(row("f"), done("SELECT 1")),
		snapshot(done("SELECT 0")),
	)
	f.Fuzz(func(t *testing.T, answer []byte) {
		answer = bounded(answer)
		defer returnsSoon(answer)()
		r := read(answer)
		for _, level := range []string{locksql.ReadCommitted, locksql.RepeatableRead} {
			tx := begin(t, &server{answers: []messages{{pgfake.Raw(answer)}}}, level)
			granted, err := tx.Open(t.Context(), acquire.Opening{})
			if granted && (err != nil || !r.grants(tx.Try().Statements)) {
				t.Errorf("%s: granted, with %v, and the answer says %+v", level, err, r)
			}
		}
	})
}
