package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pgadvisory/pgadvisory/hashkey"
)

// doctorTimeout bounds all of it, which takes a moment.
const doctorTimeout = time.Minute

// doctor prints what the server is, and what follows for the locks. Its error is
// a failure with exit code 1 if a promise does not hold.
func (p *program) doctor(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, doctorTimeout, fmt.Errorf("not ready within %v", doctorTimeout))
	defer cancel()
	d := &doctor{
		program: p,
		report:  report{out: p.stdout},
		key:     hashkey.Namespace("withlock --doctor").ID(rand.Int64()),
	}
	err := d.examine(ctx)
	switch {
	case d.failed != nil:
		return failuref(1, "%v", d.failed)
	case err != nil:
		return unavailable(p.options, err)
	case !d.verdict():
		return failuref(1, "")
	}
	return nil
}

// examine makes all examinations. Its error means that the server is not there.
func (d *doctor) examine(ctx context.Context) error {
	if err := d.connect(ctx); err != nil {
		return err
	}
	defer d.disconnect()
	for _, examination := range []func(context.Context) error{
		d.readSettings, d.serverIs, d.standbyIs, d.poolerIs,
		d.xactLockIs, d.savepointIs, d.sessionLockIs, d.preparedIs,
		d.productIs, d.rightsAre, d.freshReadsAre, d.pgLocksAre,
		d.timeoutsAre, d.habitsAre, d.vanishedIs, d.roomIs, d.connectionsAre, d.latencyIs,
	} {
		if err := examination(ctx); err != nil {
			return err
		}
	}
	return nil
}

// connect makes the two connections.
func (d *doctor) connect(ctx context.Context) error {
	pool, err := open(d.options)
	if err != nil {
		return err
	}
	if d.one, err = newProbe(ctx, pool); err != nil {
		return errors.Join(err, pool.Close())
	}
	d.one.also = pool
	config := d.one.conn.Config()
	config.DefaultQueryExecMode = pgx.QueryExecModeExec // the simple protocol asks for more of the session
	d.db = stdlib.OpenDB(*config)
	if d.two, err = newProbe(ctx, d.db); err != nil {
		d.one.close()
		return errors.Join(err, d.db.Close())
	}
	return nil
}

func (d *doctor) disconnect() {
	d.one.close()
	d.two.close()
	_ = d.db.Close() // nothing follows from an error
}

// productIs asks the packages themselves whether they take the server.
func (d *doctor) productIs(ctx context.Context) error {
	d.two.close() // into the pool, where the packages find it
	d.xactErr = d.tryXact(ctx)
	d.sessionErr = d.trySession(ctx)
	return nil
}

// verdict prints what the packages promise here, and reports whether that is all
// they promise anywhere.
func (d *doctor) verdict() bool {
	xact := verdictOn(d.xactErr, d.broken)
	session := verdictOn(d.sessionErr, append(slices.Clone(d.broken), d.sessions...))
	if d.between == poolsStatements {
		xact = "does not work through a pooler that pools statements"
		session = xact
	}
	all := xact == "" && session == ""
	if session == "" && d.between == poolsSessions {
		session = "all guarantees hold if the pooler pools sessions, but for DeadClient: the server sees the pooler alone"
	}
	d.print("\n")
	for _, of := range []struct{ name, verdict string }{{"xactlock", xact}, {"sessionlock", session}, {"withlock", session}} {
		d.print("%-11s  %s\n", of.name, cmp.Or(of.verdict, "all guarantees hold"))
	}
	d.print("\nNothing that lasts was changed: locks under a name of their own were taken and freed, "+
		"%s used up; nothing was written.\n", plural(d.ids, "transaction id"))
	return all
}
