//go:build unix

package main

import (
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// A standIn is a server that speaks enough of PostgreSQL's protocol for a doctor,
// and says that it is another product. Either its lock functions lock nothing, or
// those of a transaction do; ROLLBACK TO SAVEPOINT then frees nothing. Those of a
// session never lock.
type standIn struct {
	version string
	locks   bool

	mu   sync.Mutex
	held map[string]map[uint32]bool // by key: the connections, and whether they share it
}

// startStandIn starts one and returns the way to it.
func startStandIn(t *testing.T, version string, locks bool) (dsn string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &standIn{version: version, locks: locks, held: make(map[string]map[uint32]bool)}
	var serving sync.WaitGroup
	serving.Go(func() {
		for pid := uint32(1); ; pid++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				s.serve(conn, pid)
				s.free(pid)
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		serving.Wait()
	})
	return "postgres://root@" + listener.Addr().String() + "/defaultdb?sslmode=disable"
}

// serve serves one client until it goes.
func (s *standIn) serve(conn net.Conn, pid uint32) {
	backend := pgproto3.NewBackend(conn, conn)
	if _, err := backend.ReceiveStartupMessage(); err != nil {
		return
	}
	backend.Send(&pgproto3.AuthenticationOk{})
	if strings.HasPrefix(s.version, "CockroachDB") {
		backend.Send(&pgproto3.ParameterStatus{Name: "crdb_version", Value: s.version + " (stand-in)"})
	}
	backend.Send(&pgproto3.BackendKeyData{ProcessID: pid, SecretKey: []byte{1, 2, 3, 4}})
	status := byte('I')
	for {
		backend.Send(&pgproto3.ReadyForQuery{TxStatus: status})
		if backend.Flush() != nil {
			return
		}
		message, err := backend.Receive()
		if err != nil {
			return
		}
		query, ok := message.(*pgproto3.Query)
		if !ok {
			return // Terminate, or what no doctor sends
		}
		status = s.execute(backend, pid, query.String, status)
	}
}

// execute answers one statement, and returns whether a transaction is open.
func (s *standIn) execute(backend *pgproto3.Backend, pid uint32, query string, status byte) byte {
	command, _, _ := strings.Cut(query, " ")
	switch command {
	case "begin":
		status = 'T'
	case "commit", "rollback":
		if !strings.Contains(query, " to ") {
			s.free(pid)
			status = 'I'
		}
	case "select":
		value, known := s.value(pid, query)
		if !known {
			backend.Send(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "42883", Message: "unknown function"})
			return status
		}
		backend.Send(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("value"), DataTypeOID: 25, DataTypeSize: -1}}})
		backend.Send(&pgproto3.DataRow{Values: [][]byte{[]byte(value)}})
	}
	backend.Send(&pgproto3.CommandComplete{CommandTag: []byte(strings.ToUpper(command))})
	return status
}

var lockCall = regexp.MustCompile(`pg_try_advisory_xact_lock(_shared)?\((.*)\)`)

// value answers a select.
func (s *standIn) value(pid uint32, query string) (value string, known bool) {
	call := lockCall.FindStringSubmatch(query)
	switch {
	case call != nil && s.locks:
		if !s.lock(pid, call[2], call[1] != "") {
			return "f", true
		}
		return "t", true
	case call != nil, strings.Contains(query, "advisory"): // which does nothing
		return "t", true
	case strings.Contains(query, "version()"):
		return s.version + " (stand-in)", true
	case strings.Contains(query, "pg_backend_pid"):
		return strconv.FormatUint(uint64(pid), 10), true
	case strings.Contains(query, "pg_is_in_recovery"):
		return "f", true
	case query == "select 1":
		return "1", true
	}
	return "", false
}

// lock takes a lock if no other connection has it in a mode that conflicts.
func (s *standIn) lock(pid uint32, key string, shared bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for other, shares := range s.held[key] {
		if other != pid && !(shared && shares) {
			return false
		}
	}
	if s.held[key] == nil {
		s.held[key] = make(map[uint32]bool)
	}
	before, held := s.held[key][pid]
	s.held[key][pid] = shared && (before || !held)
	return true
}

// free ends what a connection has locked.
func (s *standIn) free(pid uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, holders := range s.held {
		delete(holders, pid)
	}
}
