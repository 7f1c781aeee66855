package main

import (
	"net"
	"strconv"
	"testing"
	"time"
)

// No harm is done to a cancel request, nor to what may become one.
func TestFair(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	p, err := newProxy(server.Addr().(*net.TCPAddr).Port)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	}()
	for _, test := range []struct {
		name, says string
		fair       int
	}{
		{"silent", "", 0},
		{"cancel request", string(cancelRequest) + "pid.key.", 0},
		{"session", "\x00\x00\x00\x09\x00\x03\x00\x00\x00", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port())))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			conn, err := server.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close() // also of the link, which is gone when both are
			arrived := make([]byte, len(test.says))
			if _, err := client.Write([]byte(test.says)); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(arrived); err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(10 * time.Second); len(p.all()) == 0 && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
			if n := len(p.fair()); n != test.fair {
				t.Errorf("%d links are fair, want %d", n, test.fair)
			}
		})
	}
}
