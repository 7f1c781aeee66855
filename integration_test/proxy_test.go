package integration_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
)

// proxy stands between a pool and the server and does what networks do.
type proxy struct {
	listener net.Listener
	target   string
	swallow  atomic.Pointer[swallow]
	inject   []byte                    // put behind the server's first answer, AuthenticationOk
	rewrite  atomic.Pointer[[2]string] // what clients say, and what the server hears; of one length
	cancels  chan *heldCancel          // if not nil, each cancel request is kept until let
	over     chan struct{}             // closed at the end of the test
	silent   atomic.Bool               // nothing is carried, and no end of a connection
	messages atomic.Int64              // what clients said, counted by reads

	mu       sync.Mutex
	conns    []net.Conn // guarded by mu: a client's, the server's for it, and so on
	requests sync.Map   // the clients' connections that carry a cancel request
}

// swallow makes the proxy lose the server's answers, from the moment that a
// client sends the text.
type swallow struct {
	text    string
	hang    bool // leave the client's connection open, rather than close it
	reached chan struct{}
	once    sync.Once
}

// heldCancel is a cancel request that the proxy keeps.
type heldCancel struct{ letGo, over chan struct{} }

// let lets the request go on to the server, and returns when the server has done
// what it was asked, and its client has been told.
func (c *heldCancel) let() {
	close(c.letGo)
	<-c.over
}

// newProxy returns a running proxy and the way to it for openDB.
func newProxy(tb testing.TB, dsn string, options ...func(*proxy)) (*proxy, func(*pgx.ConnConfig)) {
	tb.Helper()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		tb.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &proxy{listener: listener, target: fmt.Sprintf("%s:%d", config.Host, config.Port), over: make(chan struct{})}
	for _, option := range options {
		option(p)
	}
	var serving sync.WaitGroup
	serving.Go(p.serve)
	tb.Cleanup(func() {
		listener.Close()
		close(p.over)
		p.cutAll()
		serving.Wait()
	})
	return p, func(config *pgx.ConnConfig) {
		config.Port = uint16(listener.Addr().(*net.TCPAddr).Port)
	}
}

func (p *proxy) serve() {
	var both sync.WaitGroup
	defer both.Wait()
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, server)
		p.mu.Unlock()
		var lost atomic.Bool
		both.Go(func() { p.pass(server, client, &lost) })
		both.Go(func() { p.answer(client, server, &lost) })
	}
}

// cutAll closes every connection there is.
func (p *proxy) cutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.conns {
		conn.Close()
	}
	p.conns = nil
}

// cutOne closes one connection of the newest, on both sides, and returns how many
// it found to close. Those of cancel requests are spared: a client takes the end
// of one for the server's word that the request is dealt with.
func (p *proxy) cutOne() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.conns) == 0 {
		return 0
	}
	i := len(p.conns) - 2 - 2*rand.N(min(5, len(p.conns)/2))
	if _, request := p.requests.Load(p.conns[i]); request {
		return 0
	}
	for _, conn := range p.conns[i : i+2] {
		_ = conn.Close()
	}
	p.conns = slices.Delete(p.conns, i, i+2)
	return 1
}

// hangUp passes the end of a connection on.
func (p *proxy) hangUp(conn net.Conn) {
	if !p.silent.Load() {
		conn.Close()
	}
}

// pass carries what the client says.
func (p *proxy) pass(server, client net.Conn, lost *atomic.Bool) {
	defer p.hangUp(server)
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if n > 0 && !p.silent.Load() {
			p.messages.Add(1)
			s := p.swallow.Load()
			hit := s != nil && bytes.Contains(buf[:n], []byte(s.text))
			if hit {
				lost.Store(true)
			}
			said := buf[:n]
			request := isCancelRequest(said)
			if request {
				p.requests.Store(client, true)
			}
			if request && p.cancels != nil {
				held := &heldCancel{make(chan struct{}), make(chan struct{})}
				defer close(held.over)
				select {
				case p.cancels <- held:
				case <-p.over:
					return
				}
				select {
				case <-held.letGo:
				case <-p.over:
					return
				}
			}
			if rewrite := p.rewrite.Load(); rewrite != nil {
				said = bytes.ReplaceAll(said, []byte(rewrite[0]), []byte(rewrite[1]))
			}
			if _, err := server.Write(said); err != nil {
				return
			}
			if hit {
				s.once.Do(func() { close(s.reached) })
			}
		}
		if err != nil {
			return
		}
	}
}

// answer carries what the server says, as long as it is not swallowed.
func (p *proxy) answer(client, server net.Conn, lost *atomic.Bool) {
	defer p.hangUp(client)
	buf := make([]byte, 64<<10)
	inject := p.inject
	for {
		n, err := server.Read(buf)
		if err == nil && p.silent.Load() {
			continue
		}
		answer := buf[:n]
		if lost.Load() {
			if n == 0 || p.swallow.Load().hang {
				_, _ = io.Copy(io.Discard, server)
				if p.swallow.Load().hang {
					_, _ = io.Copy(io.Discard, client) // until it gives up
				}
			}
			return
		}
		if authenticationOk := []byte{'R', 0, 0, 0, 8, 0, 0, 0, 0}; inject != nil && bytes.HasPrefix(answer, authenticationOk) {
			answer = append(append(append([]byte(nil), authenticationOk...), inject...), answer[len(authenticationOk):]...)
			inject = nil
		}
		if _, err := client.Write(answer); err != nil || n == 0 {
			return
		}
		if err != nil {
			return
		}
	}
}

// isCancelRequest reports whether such a message is what a client says. Its length
// stands before its code, and depends on the server.
func isCancelRequest(said []byte) bool {
	return len(said) > 8 && int(binary.BigEndian.Uint32(said)) == len(said) && bytes.Equal(said[4:8], []byte{0x04, 0xd2, 0x16, 0x2e})
}

// parameterStatus is the message in which a server reports a setting.
func parameterStatus(name, value string) []byte {
	body := name + "\x00" + value + "\x00"
	message := binary.BigEndian.AppendUint32([]byte{'S'}, uint32(4+len(body)))
	return append(message, body...)
}
