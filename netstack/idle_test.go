package netstack

import (
	"bufio"
	"io"
	"net"
	"testing"
	"time"
)

// An upgraded connection may be idle for as long as it likes: none of the
// waits of a request is left on it. They are lowered here, so that a short
// silence is longer than all of them.
func TestWebSocketIdle(t *testing.T) {
	const wait, silence = 100 * time.Millisecond, 300 * time.Millisecond
	b := newBed(t, rule("a", "allow", allowA), func(_ *Config, w *timeouts) {
		w.first, w.idle, w.linger = wait, wait, wait
	})
	b.pins.pin("a.test", shared)
	dst := ap(shared, 80)
	b.serve(webServer, dst)
	upgrade := "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
	transparent := func() (net.Conn, *bufio.Reader) {
		c := b.connect(dst)
		return c, bufio.NewReader(c)
	}
	tunnel := func() (net.Conn, *bufio.Reader) {
		c, br := b.proxied()
		if code, _, _ := ask(t, c, br, "CONNECT", connectTo("a.test:80")); code != 200 {
			t.Fatalf("CONNECT: %d", code)
		}
		return c, br
	}
	for name, open := range map[string]func() (net.Conn, *bufio.Reader){"transparent": transparent, "tunnel": tunnel} {
		t.Run(name, func(t *testing.T) {
			c, br := open()
			if code, _, _ := ask(t, c, br, "GET", upgrade); code != 101 {
				t.Fatalf("upgrade: %d", code)
			}
			ws := struct {
				io.Reader
				io.Writer
			}{br, c}
			for range 2 {
				time.Sleep(silence) // being idle is what is tested
				roundTrip(t, ws, "still here\n")
			}
		})
	}
}
