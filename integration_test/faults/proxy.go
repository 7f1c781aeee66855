package main

import (
	"bytes"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A proxy stands between clients and a server, and does what networks do.
type proxy struct {
	listener net.Listener
	serving  sync.WaitGroup
	target   atomic.Int64               // the port of 127.0.0.1 that new connections go to
	delay    atomic.Int64               // nanoseconds, for each chunk of either direction
	refusing atomic.Bool                // new connections are closed at once
	commit   atomic.Pointer[commitTrap] // for the next link that has a COMMIT

	mu      sync.Mutex
	links   map[*link]bool // guarded by mu
	hangUps []time.Time    // guarded by mu: when clients hung up on their cancel requests
}

// A commitTrap loses the answer to a COMMIT.
type commitTrap struct {
	hang   time.Duration // how long the client waits before its connection is closed
	sprung chan struct{} // closed when a COMMIT has been forwarded
}

// A link is one connection through the proxy.
type link struct {
	client, server *net.TCPConn
	hole           atomic.Bool // swallows what comes, from both sides
	torn           atomic.Bool // the next answer breaks off in the middle
	lost           atomic.Pointer[commitTrap]
	session        atomic.Bool   // the client has begun something else than a cancel request
	cancel         atomic.Bool   // the client has sent a cancel request
	over           chan struct{} // closed when the server has no more to say
}

// newProxy starts a proxy to 127.0.0.1:port.
func newProxy(port int) (*proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: listener, links: make(map[*link]bool)}
	p.target.Store(int64(port))
	p.serving.Go(p.serve)
	return p, nil
}

func (p *proxy) port() int { return p.listener.Addr().(*net.TCPAddr).Port }

func (p *proxy) close() error {
	err := p.listener.Close()
	for _, l := range p.all() {
		l.cut()
	}
	p.serving.Wait()
	return err
}

func (p *proxy) serve() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		if p.refusing.Load() {
			client.Close()
			continue
		}
		p.serving.Go(func() { p.connect(client.(*net.TCPConn)) })
	}
}

func (p *proxy) connect(client *net.TCPConn) {
	server, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.FormatInt(p.target.Load(), 10)))
	if err != nil {
		client.Close() // as the client would be told without the proxy
		return
	}
	l := &link{client: client, server: server.(*net.TCPConn), over: make(chan struct{})}
	p.mu.Lock()
	p.links[l] = true
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.forward(l) })
	both.Go(func() { p.answer(l) })
	both.Wait()
	l.cut()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// forward carries what the client says. When the client has no more to say, the
// server learns that, as it would without the proxy; but not before it has
// answered a cancel request, of which PgBouncer 1.18 crashes.
func (p *proxy) forward(l *link) {
	defer func() { _ = l.server.CloseWrite() }()
	buf := make([]byte, 64<<10)
	for {
		n, err := l.client.Read(buf)
		if err != nil {
			p.noteHangUp(l)
			return
		}
		if bytes.HasPrefix(buf[:n], cancelRequest) {
			l.cancel.Store(true)
		} else {
			l.session.Store(true)
		}
		p.wait()
		if l.hole.Load() {
			continue
		}
		trap := p.commit.Load()
		if trap != nil && commitEnd.Match(buf[:n]) && p.commit.CompareAndSwap(trap, nil) {
			l.lost.Store(trap)
			defer close(trap.sprung)
		}
		if _, err := l.server.Write(buf[:n]); err != nil {
			return
		}
		if trap := l.lost.Load(); trap != nil {
			time.Sleep(trap.hang)
			_ = l.client.Close()
			return
		}
	}
}

// answer carries what the server says.
func (p *proxy) answer(l *link) {
	defer func() {
		close(l.over)
		_ = l.client.CloseWrite()
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := l.server.Read(buf)
		if err != nil {
			return
		}
		p.wait()
		if l.hole.Load() || l.lost.Load() != nil {
			continue
		}
		torn := l.torn.Load()
		if torn {
			n /= 2
		}
		if _, err := l.client.Write(buf[:n]); err != nil || torn {
			l.cut()
			return
		}
	}
}

// noteHangUp notes it if the client has hung up on a cancel request, and waits for
// the server then.
func (p *proxy) noteHangUp(l *link) {
	if !l.cancel.Load() {
		return
	}
	select {
	case <-l.over:
	default:
		p.mu.Lock()
		p.hangUps = append(p.hangUps, time.Now())
		p.mu.Unlock()
		<-l.over
	}
}

// takeHangUps returns when clients hung up since it was called last.
func (p *proxy) takeHangUps() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken := p.hangUps
	p.hangUps = nil
	return taken
}

func (p *proxy) wait() {
	if d := time.Duration(p.delay.Load()); d > 0 {
		time.Sleep(d)
	}
}

// commitEnd matches the COMMIT that ends a transaction, as the last statement of
// a text or on its own: not "read committed", and not "commit and chain".
var commitEnd = regexp.MustCompile(`(?i)commit(;|\x00)`)

// cancelRequest is how a cancel request begins, with a secret of four bytes: its
// length and its code.
var cancelRequest = []byte{0, 0, 0, 16, 4, 210, 22, 46}

func (p *proxy) all() []*link {
	p.mu.Lock()
	defer p.mu.Unlock()
	links := make([]*link, 0, len(p.links))
	for l := range p.links {
		links = append(links, l)
	}
	return links
}

// fair are the links to which harm may be done: those of cancel requests are not,
// as PgBouncer 1.18 crashes when their clients go, nor those that may become one.
func (p *proxy) fair() []*link {
	return slices.DeleteFunc(p.all(), func(l *link) bool { return !l.session.Load() })
}

// some returns one of the fair links, or nil if there is none.
func (p *proxy) some(r *rand.Rand) *link {
	links := p.fair()
	if len(links) == 0 {
		return nil
	}
	return links[r.IntN(len(links))]
}

// cut closes both sides.
func (l *link) cut() {
	_ = l.client.Close()
	_ = l.server.Close()
}

// reset closes both sides, which see an error rather than an end.
func (l *link) reset() {
	_ = l.client.SetLinger(0)
	_ = l.server.SetLinger(0)
	l.cut()
}
