package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

const slotsOfProcesses = 3

// Over three processes, by locks of transactions and of sessions, there are never
// more holders than slots, while holders and waiters are terminated and a process
// is killed. All slots are used before that and after it.
//
// A holder writes down when it began and, in the session that has the slot, when
// it ended. One that was terminated has no end, and does not count. The first
// holders wait for each other, and the last.
func TestSlotsOverProcesses(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	db := openDB(t, dsn)
	exec(t, db, `create table turns (id serial, began timestamptz, ended timestamptz);
		create table locked (pid int, n int)`)
	turns := stress(1500)
	dies, kill := context.WithCancel(t.Context())
	defer kill()
	done := make(chan error, 1)
	go func() {
		done <- parallel(3, func(i int) error {
			if i == 0 {
				return runKillableProcess(dies, "take slots", dsn, strconv.Itoa(turns))
			}
			return runProcess("take slots", dsn, strconv.Itoa(turns))
		})
	}()
	var err error
	terminated := 0
	for over := false; !over; {
		select {
		case err = <-done:
			over = true
		case <-time.After(50 * time.Millisecond):
			begun := number(t, db, begunTurns)
			if begun > slotsOfProcesses && begun < turns/2 {
				terminated += number(t, db, `select count(pg_terminate_backend(pid)) from
					(select pid from pg_locks where`+inThisDatabase+`order by granted, random() limit 1) one`)
			}
			if begun > turns/3 {
				kill()
			}
		}
	}
	if err != nil {
		t.Error(err)
	}
	if dies.Err() == nil || terminated == 0 {
		t.Errorf("a process was killed: %t; %d sessions were terminated", dies.Err() != nil, terminated)
	}
	for which, turns := range map[string]string{
		"of all": "true", "of the first": fmt.Sprint("id <= ", slotsOfProcesses), "of the last": fmt.Sprint("id >= ", turns),
	} {
		most := number(t, db, `select max(held) from (
			select sum(step) over (order by at, step) as held from (
				select began as at, 1 as step from turns where ended is not null and `+turns+` union all
				select ended, -1 from turns where ended is not null and `+turns+`) steps) all_steps`)
		if most != slotsOfProcesses {
			t.Errorf("%d holders at once %s, want %d", most, which, slotsOfProcesses)
		}
	}
	if n := number(t, db, `select count(*) from locked where n <> 1`); n > 0 {
		t.Errorf("%d holders had not one lock", n)
	}
	noTrace(t, db)
}

func init() { processes["take slots"] = takeSlots }

// takeSlots is one of those processes: goroutines that want a slot all the time,
// until all processes together have had so many turns.
func takeSlots(args []string) error {
	db, err := sql.Open("pgx", args[0])
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(6)
	turns, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	key := hashkey.Name("slots")
	calls := []func(ctx context.Context, turn func(context.Context, execQueryer) error) error{
		func(ctx context.Context, turn func(context.Context, execQueryer) error) error {
			l := xactlock.New(db)
			return l.WithSlot(ctx, key, slotsOfProcesses, func(ctx context.Context, tx *sql.Tx) error { return turn(ctx, tx) })
		},
		func(ctx context.Context, turn func(context.Context, execQueryer) error) error {
			l := xactlock.New(db).With(xactlock.Options{Plain: true})
			return l.WithSlot(ctx, key, slotsOfProcesses, func(ctx context.Context, tx *sql.Tx) error { return turn(ctx, tx) })
		},
		func(ctx context.Context, turn func(context.Context, execQueryer) error) error {
			l := sessionlock.New(db)
			return l.WithSlot(ctx, key, slotsOfProcesses, func(ctx context.Context, conn *sql.Conn) error { return turn(ctx, conn) })
		},
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	defer cancel()
	return parallel(2*len(calls), func(i int) error {
		for id := 0; id < turns; {
			err := calls[i%len(calls)](ctx, func(ctx context.Context, on execQueryer) error { return slotTurn(ctx, on, turns, &id) })
			if err != nil && ctx.Err() != nil {
				return fmt.Errorf("after %d turns: %w", id, err)
			}
			// Any other error is that of a session that was terminated.
			if errors.Is(err, xactlock.ErrNotAcquired) {
				return err
			}
		}
		return nil
	})
}

// execQueryer is a *sql.Tx or a *sql.Conn.
type execQueryer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// begunTurns is how many turns have begun, ended and terminated ones included.
const begunTurns = `select case when is_called then last_value else 0 end from turns_id_seq`

// slotTurn writes down a turn in a slot, in the session that has it. The first
// holders, and those after so many turns, go on when all slots are taken.
func slotTurn(ctx context.Context, on execQueryer, turns int, id *int) error {
	_, err := on.ExecContext(ctx, `insert into locked select pg_backend_pid(), count(*) from pg_locks where granted and pid = pg_backend_pid() and`+inThisDatabase)
	if err != nil {
		return err
	}
	if err := on.QueryRowContext(ctx, `insert into turns (began) values (clock_timestamp()) returning id`).Scan(id); err != nil {
		return err
	}
	for _, last := range []int{slotsOfProcesses, turns + slotsOfProcesses - 1} {
		for begun := 0; *id > last-slotsOfProcesses && *id <= last && begun < last; {
			if err := on.QueryRowContext(ctx, begunTurns).Scan(&begun); err != nil {
				return err
			}
		}
	}
	if _, err := on.ExecContext(ctx, `select pg_sleep(0.005)`); err != nil {
		return err
	}
	_, err = on.ExecContext(ctx, `update turns set ended = clock_timestamp() where id = $1`, *id)
	return err
}
