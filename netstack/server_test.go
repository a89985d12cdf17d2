package netstack

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// server is a server outside that keeps every byte that it was sent.
type server struct {
	mu   sync.Mutex
	got  bytes.Buffer
	more chan struct{}
	ln   net.Listener
}

// serve starts a server for each address; handle talks on one connection whose
// reads are kept.
func (b *bed) serve(handle func(net.Conn), dsts ...netip.AddrPort) *server {
	b.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	s := &server{ln: ln, more: make(chan struct{})}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(2 * patience))
				handle(&tapped{c, s})
			})
		}
	})
	b.t.Cleanup(func() { ln.Close(); wg.Wait() })
	b.dial.mu.Lock()
	for _, d := range dsts {
		b.dial.to[d] = ln.Addr().String()
	}
	b.dial.mu.Unlock()
	return s
}

type tapped struct {
	net.Conn
	s *server
}

func (c *tapped) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.s.mu.Lock()
	c.s.got.Write(p[:n])
	close(c.s.more)
	c.s.more = make(chan struct{})
	c.s.mu.Unlock()
	return n, err
}

func (s *server) text() string { s.mu.Lock(); defer s.mu.Unlock(); return s.got.String() }

func drain(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// echo answers what it gets, and passes the end on.
func echo(c net.Conn) {
	_, _ = io.Copy(c.(*tapped).Conn, c)
	_ = c.(*tapped).Conn.(*net.TCPConn).CloseWrite()
}
