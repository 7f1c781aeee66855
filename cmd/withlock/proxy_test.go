//go:build unix

package main

import (
	"net"
	"strconv"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
)

// proxy stands before a server, and can do to clients what a server does at bad
// times.
type proxy struct {
	dsn    string // of the same database, through the proxy
	target string

	mu     sync.Mutex
	refuse string // SQLSTATE of the answer to a client; "EOF" hangs up; "" lets it in
	most   int    // >0: so many connections at once, and 53300 for the next
	conns  map[net.Conn]bool
	frozen bool // what comes is not passed on
}

func newProxy(t *testing.T, dsn string) *proxy {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	p := &proxy{
		dsn:    with(with(with(dsn, "host", "127.0.0.1"), "port", port), "sslmode", "disable"),
		target: net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port))),
		conns:  map[net.Conn]bool{},
	}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go p.serve(client)
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		for conn := range p.conns {
			_ = conn.Close()
		}
	})
	return p
}

// set changes what the proxy does.
func (p *proxy) set(change func(p *proxy)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	p.mu.Lock()
	refuse := p.refuse
	if p.most > 0 && len(p.conns) >= p.most {
		refuse = "53300"
	}
	if refuse == "" {
		p.conns[client] = true
	}
	p.mu.Unlock()
	if refuse != "" {
		backend := pgproto3.NewBackend(client, client)
		if _, err := backend.ReceiveStartupMessage(); err != nil || refuse == "EOF" {
			return
		}
		backend.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: refuse, Message: "the test says so"})
		_ = backend.Flush() // the client may be gone
		return
	}
	defer p.set(func(p *proxy) { delete(p.conns, client) })
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		defer client.Close()
		p.pass(server, client)
	}()
	p.pass(client, server)
}

func (p *proxy) pass(from, to net.Conn) {
	b := make([]byte, 8<<10)
	for {
		n, err := from.Read(b)
		p.mu.Lock()
		frozen := p.frozen
		p.mu.Unlock()
		if !frozen {
			if _, writeErr := to.Write(b[:n]); writeErr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
