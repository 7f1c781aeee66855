// Package pgfake is a PostgreSQL server for tests that need to say what it
// answers.
package pgfake

import (
	"context"
	"net"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
)

// PID is the process id that the server tells the client.
const PID = 7

// Connect returns a connection to a server that answers each Query and each Sync
// with what answer says, or hangs up where that says nothing. The parameters are
// what the server reports when the session begins.
func Connect(tb testing.TB, answer func(message pgproto3.FrontendMessage) []pgproto3.BackendMessage, parameters ...pgproto3.ParameterStatus) *pgx.Conn {
	tb.Helper()
	config, err := pgx.ParseConfig("postgres://u@server/d?sslmode=disable")
	if err != nil {
		tb.Fatal(err)
	}
	config.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"server"}, nil }
	config.DialFunc = func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go serve(server, answer, parameters)
		return client, nil
	}
	conn, err := pgx.ConnectConfig(tb.Context(), config)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func serve(conn net.Conn, answer func(pgproto3.FrontendMessage) []pgproto3.BackendMessage, parameters []pgproto3.ParameterStatus) {
	defer conn.Close()
	backend := pgproto3.NewBackend(conn, conn)
	if _, err := backend.ReceiveStartupMessage(); err != nil {
		return
	}
	backend.Send(&pgproto3.AuthenticationOk{})
	for i := range parameters {
		backend.Send(&parameters[i])
	}
	backend.Send(&pgproto3.BackendKeyData{ProcessID: PID, SecretKey: []byte{0, 0, 0, 1}})
	backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	for backend.Flush() == nil {
		message, err := backend.Receive()
		if err != nil {
			return
		}
		switch message.(type) {
		case *pgproto3.Query, *pgproto3.Sync:
			all := answer(message)
			if all == nil {
				return
			}
			for _, m := range all {
				if raw, ok := m.(Raw); ok {
					_ = backend.Flush() // fails only where the client has left
					_, _ = conn.Write(raw)
					return
				}
				backend.Send(m)
			}
		case *pgproto3.Terminate:
			return
		}
	}
}

// Done is the answer to a statement that has succeeded.
func Done(tag string) pgproto3.BackendMessage {
	return &pgproto3.CommandComplete{CommandTag: []byte(tag)}
}

// Row is a row of one value.
func Row(value string) pgproto3.BackendMessage {
	return &pgproto3.DataRow{Values: [][]byte{[]byte(value)}}
}

// Ready is the end of an answer, in a transaction with the status.
func Ready(status byte) pgproto3.BackendMessage { return &pgproto3.ReadyForQuery{TxStatus: status} }

// Raw is an answer as bytes of the test's own, whole or not. The server hangs up
// after it.
type Raw []byte

// The methods make it a message; none is used.
func (Raw) Backend()                          {}
func (Raw) Decode([]byte) error               { return nil }
func (Raw) Encode(dst []byte) ([]byte, error) { return dst, nil }

// Failure is the answer to a statement that has failed, with the name of the
// routine that PostgreSQL has in each.
func Failure(severity, code string) pgproto3.BackendMessage {
	return &pgproto3.ErrorResponse{Severity: severity, SeverityUnlocalized: severity, Code: code, Message: "a message", Routine: "aRoutine"}
}
