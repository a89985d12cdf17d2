package netstack

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

// A client that takes a source port again, soon after the server closed the
// connection that had it, is answered by its first repeated SYN: what is left
// of the old connection on our side does not stand in its way for long.
func TestSourcePortIsUsedAgain(t *testing.T) {
	b := newBed(t, rule("r", "allow", `network.hostname == "a.test"`))
	b.pins.pin("a.test", shared)
	b.serve(func(c net.Conn) { io.WriteString(c, "hello\n") }, ap(shared, 4000))
	to, p := full(ap(shared, 4000))
	from, _ := full(ap(netip.MustParseAddr("10.200.0.2"), 45000))
	for i := range 3 {
		var start time.Time
		var c *gonet.TCPConn
		var err error
		for limit := time.Now().Add(patience); time.Now().Before(limit); time.Sleep(time.Millisecond) {
			start = time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			c, err = gonet.DialTCPWithBind(ctx, b.agent, from, to, p)
			cancel()
			if err == nil || !strings.Contains(err.Error(), "port is in use") { // the client's own end of the last one
				break
			}
		}
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		if text, err := io.ReadAll(c); string(text) != "hello\n" {
			t.Fatalf("connection %d: %q %v", i, text, err)
		}
		c.Close()
		if took := time.Since(start); i > 0 && took > 3*time.Second {
			t.Errorf("connection %d was answered after %v", i, took)
		}
	}
}
