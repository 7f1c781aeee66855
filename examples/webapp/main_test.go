package main

import (
	"context"
	"database/sql"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/internal/testneed"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// patience bounds every wait for a state. It is generous, because what ends in
// it is a test that fails anyway.
const patience = 30 * time.Second

var until = testneed.Until

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// service is the service on a database of the test's own, with account 1,
// which holds 100 cents.
type service struct {
	db     *sql.DB
	locker *xactlock.Locker // another one than the service's own
	url    string
}

func newService(t *testing.T, o xactlock.Options) *service {
	t.Helper()
	return newServiceIn(t, styles[0], o)
}

// eachStyle runs a test on a service in each style.
func eachStyle(t *testing.T, o xactlock.Options, test func(t *testing.T, s *service)) {
	for _, style := range styles {
		t.Run(style.name, func(t *testing.T) { test(t, newServiceIn(t, style, o)) })
	}
}

func newServiceIn(t *testing.T, in style, o xactlock.Options) *service {
	t.Helper()
	p := newTestPools(t, pgtest.New(t).Scratch(t), in.name)
	db, locker := p.db, xactlock.New(p.db)
	if err := createSchema(t.Context(), locker); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	server := httptest.NewServer(newAPI(p, in, o, log).routes())
	t.Cleanup(server.Close)
	s := &service{db: db, locker: locker, url: server.URL}
	if got := s.put(t, "/accounts/1", "balance=100"); got.status != http.StatusCreated {
		t.Fatalf("open account 1: %v", got)
	}
	return s
}

func newTestDB(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	return newTestPools(t, dsn, styles[0].name).db
}

func newTestPools(t *testing.T, dsn, style string) *pools {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	p, err := openPools(config, style)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// reply is what the service answered.
type reply struct {
	status     int
	retryAfter string
	body       string
}

func (s *service) get(t *testing.T, path string) reply {
	t.Helper()
	return send(t, http.MethodGet, s.url+path, "", "")
}

func (s *service) put(t *testing.T, path, form string) reply {
	t.Helper()
	return send(t, http.MethodPut, s.url+path, "application/x-www-form-urlencoded", form)
}

func (s *service) post(t *testing.T, path, form string) reply {
	t.Helper()
	return send(t, http.MethodPost, s.url+path, "application/x-www-form-urlencoded", form)
}

// send may be called from any goroutine: it does not end the test.
func send(t *testing.T, method, url, contentType, body string) reply {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return reply{}
	}
	request.Header.Set("Content-Type", contentType)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Error(err)
		return reply{}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Errorf("%s %s: read the body: %v", method, url, err)
	}
	return reply{response.StatusCode, response.Header.Get("Retry-After"), strings.TrimSpace(string(text))}
}

// waiters is how many sessions wait for an advisory lock of the database.
func waiters(t *testing.T, db *sql.DB) int {
	t.Helper()
	n, err := queryInt(t.Context(), db, `select count(*) from pg_locks where locktype = 'advisory' and not granted
		and database = (select oid from pg_database where datname = current_database())`)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
