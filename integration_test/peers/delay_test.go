package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

const testDelay = 2 * time.Millisecond

// echo returns a connection whose other end, the delay away, sends back what
// it gets.
func echo(t *testing.T, delay time.Duration) net.Conn {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		server, err := listener.Accept()
		if err != nil {
			return // the dial below failed, and says so
		}
		_, _ = io.Copy(server, server)
		_ = server.Close()
	}()
	conn, err := delaying((&net.Dialer{}).DialContext, delay)(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// roundTrip sends a message and waits for its echo.
func roundTrip(t *testing.T, conn net.Conn) time.Duration {
	t.Helper()
	message, answer := []byte("a message"), make([]byte, 9)
	start := time.Now()
	if _, err := conn.Write(message); err != nil {
		t.Error(err)
	}
	clear(message) // Write must have taken a copy
	if _, err := io.ReadFull(conn, answer); err != nil {
		t.Error(err)
	}
	if string(answer) != "a message" {
		t.Errorf("the answer is %q", answer)
	}
	return time.Since(start)
}

func TestDelayIsExact(t *testing.T) {
	conn := echo(t, testDelay)
	var took []time.Duration
	for range 50 {
		took = append(took, roundTrip(t, conn))
	}
	// A busy machine makes some of them late, but none early.
	if best := slices.Min(took); best < 2*testDelay || best > 2*testDelay+testDelay/2 {
		t.Errorf("the quickest of 50 round trips took %v, want hardly more than %v", best, 2*testDelay)
	}
}

// What is written while a message is under way is under way with it.
func TestDelaysOverlap(t *testing.T) {
	const messages = 100
	conn := echo(t, 20*testDelay)
	start := time.Now()
	var want bytes.Buffer
	for n := range messages {
		message := []byte{byte(n)}
		want.Write(message)
		if _, err := conn.Write(message); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, messages)
	if _, err := io.ReadFull(conn, got); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 40*testDelay || took > 20*testDelay*messages/4 {
		t.Errorf("%d messages took %v, want about %v", messages, took, 40*testDelay)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("the order is %v", got)
	}
}

func TestConnectionsDoNotWaitForEachOther(t *testing.T) {
	const conns, trips, delay = 20, 10, 10 * testDelay
	var all []net.Conn
	for range conns {
		all = append(all, echo(t, delay))
	}
	start := time.Now()
	var wg sync.WaitGroup
	for _, conn := range all {
		wg.Go(func() {
			for range trips {
				roundTrip(t, conn)
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took > conns*trips*delay/2 {
		t.Errorf("%d connections with %d round trips each took %v", conns, trips, took)
	}
}

func TestCloseDeliversWhatIsUnderWay(t *testing.T) {
	ours, theirs := net.Pipe()
	conn, err := newDelayConn(ours, testDelay)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("goodbye")); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("again")); err == nil {
		t.Error("a closed connection takes a message")
	}
	if got, err := io.ReadAll(theirs); err != nil || string(got) != "goodbye" {
		t.Errorf("delivered %q, %v", got, err)
	}
}

func TestFailedDeliveryFailsTheNextWrite(t *testing.T) {
	ours, theirs := net.Pipe()
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	conn, err := newDelayConn(ours, time.Microsecond)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for err == nil && ctx.Err() == nil {
		_, err = conn.Write([]byte("hello"))
	}
	if err == nil {
		t.Error("messages to nobody were taken without an error")
	}
}

func TestPause(t *testing.T) {
	var p pauses
	for range 3 {
		start := time.Now()
		if err := p.pause(testDelay); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < testDelay {
			t.Errorf("a pause of %v took %v", testDelay, took)
		}
	}
	if len(p.free) != 1 {
		t.Errorf("%d alarms for one pause at a time", len(p.free))
	}
}
