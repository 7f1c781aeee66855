package integration_test

import (
	"database/sql"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// trap puts functions of the names that xactlock calls into the schema trap,
// all of which fail.
const trap = `
create schema trap;
do $$
declare signature text;
begin
	for signature in
		select distinct format('%I(%s)', proname, pg_get_function_identity_arguments(oid))
		from pg_proc where pronamespace = 'pg_catalog'::regnamespace and (proname ~ 'advisory' or proname in
			('set_config', 'current_setting', 'pg_is_in_recovery', 'starts_with', 'pg_current_xact_id', 'pg_logical_emit_message'))
	loop
		execute format('create function trap.%s returns int language plpgsql as ''begin raise ''''trapped''''; end''', signature);
	end loop;
	create function trap.generate_series(int, int) returns int language plpgsql as 'begin raise ''trapped''; end';
end $$`

// No search_path can put another function in the place of the server's.
func TestSearchPath(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		exec(t, db, trap)
		trapped := openDB(t, dsnOf(t, db), func(config *pgx.ConnConfig) {
			config.RuntimeParams["search_path"] = "trap, pg_catalog, public"
		})
		if _, err := trapped.Exec(`select pg_advisory_xact_lock(1::bigint)`); err == nil {
			t.Fatal("the trap does not work")
		}
		o := paths[pathOf(t)]
		o.MaxHold = patience
		for name, call := range calls(xactlock.New(trapped).With(o)) {
			if err := call(t.Context(), nothing); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		holder := hold(t, xactlock.New(db), hashkey.Name("k"))
		done := make(chan error, 1)
		go func() { done <- xactlock.New(trapped).With(o).WithTx(t.Context(), hashkey.Name("k"), nothing) }()
		until(t, "the call waits", func() bool { return waitingLocks(t, db) == 1 })
		if err := holder.release(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Errorf("after a wait: %v", err)
		}
		err := inTx(trapped, func(tx *sql.Tx) error {
			if err := tryLock(t.Context(), l, tx, hashkey.Name("a"), hashkey.Name("b")); err != nil {
				return err
			}
			if _, err := xactlock.Token(t.Context(), tx); err != nil {
				return err
			}
			return l.Lock(t.Context(), tx, hashkey.Name("a"), hashkey.Name("b"))
		})
		if err != nil {
			t.Errorf("in the caller's transaction: %v", err)
		}
	})
}
