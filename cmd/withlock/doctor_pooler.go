package main

import (
	"context"
	"errors"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
)

// poolerIs finds out what is in between. A pooler has its own cancel key, so the
// process that the client was told of at the start is not the one that answers.
// What it pools is seen by the processes that answer two clients in turn: one
// holds a transaction open, the other comes in between.
func (d *doctor) poolerIs(ctx context.Context) error {
	const subject = "pooler"
	direct, moved, words, err := d.takeTurns(ctx)
	switch {
	case err != nil:
		return err
	case words != "":
		d.between = poolsStatements
		d.breaks(subject, "one that pools statements: "+words, "no lock can be held through it: a lock takes a transaction or a session")
	case moved:
		d.between = poolsTransactions
		d.line(notable, subject, "one that pools transactions: a client's session was given to another client between two transactions",
			"xactlock: works. At SERIALIZABLE a next holder may, rarely, see a 40001 too many",
			"sessionlock and withlock: need another way to the server, as a lock would be left with any client")
	case !direct:
		d.between = poolsSessions
		d.line(notable, subject, "one that keeps a client's session for it, in "+strconv.Itoa(turns)+" rounds of two clients",
			"xactlock: works",
			"sessionlock and withlock: work with Options.Pooler, --pooler, which is your word that it pools sessions")
	default:
		d.line(good, subject, "none: the process that greeted the client is the one that answers")
	}
	return nil
}

// turns is how many rounds two clients take. A pooler that pools transactions
// hands out the session that was used last, or the one used least recently: in
// either case a few rounds are enough.
const turns = 8

// takeTurns reports whether the sessions are the ones that greeted the clients, and
// whether one was given to the other client. It returns the server's words if
// there can be no transaction.
func (d *doctor) takeTurns(ctx context.Context) (direct, moved bool, words string, err error) {
	first, err := d.one.backend(ctx)
	if err != nil {
		return false, false, "", err
	}
	direct = first == strconv.FormatUint(uint64(d.one.conn.PgConn().PID()), 10)
	for range turns {
		other := ""
		if err = d.begin(ctx, d.two); err == nil {
			other, err = d.two.backend(ctx) // some refuse the second statement only
		}
		if refused := (*pgconn.PgError)(nil); errors.As(err, &refused) {
			return direct, false, refused.Message, nil
		}
		if err != nil {
			return direct, false, "", err
		}
		mine, err := d.one.backend(ctx)
		if err != nil {
			return direct, false, "", err
		}
		if err := d.two.rollback(ctx); err != nil {
			return direct, false, "", err
		}
		if other == first || mine != first {
			return direct, true, "", nil
		}
	}
	return direct, false, "", nil
}

// begin opens a transaction which no limit of the role ends meanwhile.
func (d *doctor) begin(ctx context.Context, p *probe) error {
	if err := p.tell(ctx, "begin isolation level read committed"); err != nil {
		return err
	}
	if d.number("idle_in_transaction_session_timeout") > 0 {
		return p.tell(ctx, "set local idle_in_transaction_session_timeout = 0")
	}
	return nil
}

// preparedIs finds out whether a statement that was prepared in one transaction
// is there in the next. To execute it on a session that does not have it would
// write an error into the server's log, so the other client looks for it instead:
// it gets the session where the statement is, under which name it is there, and
// takes it away.
func (d *doctor) preparedIs(ctx context.Context) error {
	const subject = "prepared statements"
	if d.between != poolsTransactions {
		if d.between != poolsStatements {
			d.line(good, subject, "stay with the connection")
		}
		return nil
	}
	name := "withlock_doctor_" + strconv.FormatUint(uint64(d.key.Int64()), 16)
	pg := d.one.conn.PgConn()
	if _, err := pg.Prepare(ctx, name, "select '"+name+"'", nil); err != nil {
		words, err := refusal(err)
		d.line(notable, subject, "the pooler refuses them: "+words, withoutPrepared...)
		return err
	}
	kept, err := d.lookForPrepared(ctx, name)
	if err != nil {
		return err
	}
	switch kept {
	case name:
		d.line(notable, subject, "stay behind in the pool: the next transaction of the client does not find them", withoutPrepared...)
		return nil
	case "":
		d.line(untried, subject, "what the pooler does with them was not seen")
	default:
		d.line(good, subject, "the pooler carries them from one session to the next")
	}
	return pg.Deallocate(ctx, name)
}

var withoutPrepared = []string{
	"xactlock: opens and ends its transactions without them by itself",
	"your own statements, and Exec's: default_query_exec_mode=exec in the URL, or a pooler that knows them (PgBouncer 1.21)",
}

// lookForPrepared returns the name under which the statement with this text is on
// a session, or "". Where it has the name that the client gave it, it is dropped.
func (d *doctor) lookForPrepared(ctx context.Context, name string) (kept string, err error) {
	for range turns {
		if err := d.begin(ctx, d.two); err != nil {
			return "", err
		}
		kept, err := d.two.value(ctx, "select name from pg_catalog.pg_prepared_statements where pg_catalog.strpos(statement, '"+name+"') operator(pg_catalog.>) 0")
		if err == nil && kept == name {
			err = d.two.tell(ctx, "deallocate "+name)
		}
		if words, err := refusal(err); words != "" || err != nil {
			return "", errors.Join(err, d.two.rollback(ctx))
		}
		// The other client has that session now, so this execution is on another.
		if kept != "" && kept != name && !d.executes(ctx, name) {
			kept = name
		}
		if err := d.two.rollback(ctx); err != nil || kept != "" {
			return kept, err
		}
	}
	return "", nil
}

// executes reports whether a statement that was prepared can be executed.
func (d *doctor) executes(ctx context.Context, name string) bool {
	result := d.one.conn.PgConn().ExecPrepared(ctx, name, nil, nil, nil).Read()
	return result.Err == nil && len(result.Rows) == 1
}
