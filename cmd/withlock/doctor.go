package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pgadvisory/pgadvisory/hashkey"
)

// A doctor tries whether the locks of a server keep what the packages promise.
// It takes locks under a name of its own on two connections, looks, and frees
// them. It sends its statements by the simple protocol, so that it leaves no
// prepared statement on a session of a pooler.
type doctor struct {
	*program
	report

	db       *sql.DB           // the product's calls are made on it, and two is of it
	one, two *probe            // two clients of the server
	key      hashkey.Key       // no other client uses it
	settings map[string]string // of the role, by name; times have no unit
	standby  bool
	between  pooling
	blind    bool // pg_locks does not show the locks of another session
	ids      int  // transaction ids that were used

	xactErr, sessionErr error // why the packages refuse the server
}

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
		return unavailable(p.options, p.env, err)
	case !d.verdict():
		return failuref(1, "")
	}
	return nil
}

// validateDoctor checks the command line of a doctor: of all flags only those
// that say how to connect mean anything.
func (o *options) validateDoctor(fs *flag.FlagSet) (err error) {
	if o.name != "" || len(o.command) > 0 {
		return usageError("--doctor takes no NAME and no COMMAND")
	}
	fs.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "doctor", "db", "pooler", "connect-wait", "v", "verbose":
		default:
			err = usageError("--doctor does not go with %s", f.Name)
		}
	})
	return err
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
		d.productIs, d.freshReadsAre, d.pgLocksAre,
		d.timeoutsAre, d.vanishedIs, d.roomIs, d.connectionsAre, d.latencyIs,
	} {
		if err := examination(ctx); err != nil {
			return err
		}
	}
	return nil
}

// connect makes the two connections.
func (d *doctor) connect(ctx context.Context) error {
	pool, err := open(d.options, d.env)
	if err != nil {
		return err
	}
	if d.one, err = newProbe(ctx, pool); err != nil {
		return errors.Join(err, pool.Close())
	}
	d.one.also = pool
	config := d.one.conn.Config()
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
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
