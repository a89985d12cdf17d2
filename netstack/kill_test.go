package netstack

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"outcall/policy"
)

// A flow that is ended while octets stream, or while its client does not read,
// stops at once, whichever way the octets go.
func TestKillStopsAStream(t *testing.T) {
	get := "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
	flooding := func(head string) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1<<10))
			_, _ = io.WriteString(c, head)
			_ = floodOver(c)
		}
	}
	for i, w := range []struct {
		name, first string
		server      func(net.Conn)
		tls         bool
	}{
		{"raw", rawWord, flooding(""), false},
		{"chunked", get, flooding("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), false},
		{"length", get, flooding("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000000\r\n\r\n"), false},
		{"end", get, flooding("HTTP/1.1 200 OK\r\n\r\n"), false},
		{"TLS", "x", func(c net.Conn) {
			s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{certOnce()}})
			flooding("")(s)
		}, true},
		{"up", "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n", drain, false},
	} {
		for _, reads := range []bool{true, false} {
			b := newBed(t, rule("a", "allow", allowA))
			b.pins.pin("a.test", shared)
			dst := ap(shared, uint16(1000+i))
			over := make(chan bool, 1)
			b.serve(func(c net.Conn) { w.server(c); over <- true }, dst)
			end := b.connectEnd(dst)
			var c net.Conn = end
			if w.tls {
				c = tls.Client(end, tlsClient("a.test"))
			}
			fmt.Fprint(c, w.first)
			gone := make(chan error, 1)
			go func() {
				switch {
				case w.name == "up":
					gone <- floodOver(c)
				case reads:
					_, err := io.Copy(io.Discard, c)
					gone <- err
				}
			}()
			var flows []FlowInfo
			for begin := time.Now(); len(flows) != 1 || flows[0].BytesIn+flows[0].BytesOut < 1<<20; flows = b.Flows() {
				if time.Sleep(time.Millisecond); time.Since(begin) > patience {
					t.Fatalf("%s: %+v", w.name, flows)
				}
			}
			start := time.Now()
			b.Kill(flows[0].ID)
			<-over
			if reads || w.name == "up" {
				if err := <-gone; err == nil {
					t.Errorf("%s: the client sees a whole end", w.name)
				}
			}
			for b.Stack.flows.len() > 0 && time.Since(start) < patience {
				time.Sleep(time.Millisecond)
			}
			b.log.wait(t, "end", func(e policy.Event) bool { return e.Event == "end" })
			if d := time.Since(start); d > time.Second {
				t.Errorf("%s, client reads %v: ended after %s", w.name, reads, d)
			}
		}
	}
}
