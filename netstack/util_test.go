package netstack

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

func (b *bed) timeout(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(b.ctx, d)
}

func dialAgent(ctx context.Context, b *bed, a tcpip.FullAddress, p tcpip.NetworkProtocolNumber) (*gonet.TCPConn, error) {
	return gonet.DialContextTCP(ctx, b.agent, a, p)
}

// denialsLocked is denials for use inside find, which has the lock.
func (b *bed) denialsLocked() (n int) {
	for _, e := range b.log.events {
		if e.Verdict == "deny" {
			n++
		}
	}
	return n
}

// writeSplit writes b in pieces of n octets.
func writeSplit(c net.Conn, b []byte, n int) {
	for i := 0; i < len(b); i += n {
		if _, err := c.Write(b[i:min(len(b), i+n)]); err != nil {
			return
		}
	}
}

// clientHello returns the records that a real client sends first.
func clientHello(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	c, s := net.Pipe()
	defer s.Close()
	go func() { _ = tls.Client(c, cfg).Handshake(); c.Close() }()
	head := make([]byte, 5)
	if _, err := io.ReadFull(s, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := io.ReadFull(s, body); err != nil {
		t.Fatal(err)
	}
	return append(head, body...)
}

// forgeHello is a minimal TLS 1.2 ClientHello with any bytes as its name.
func forgeHello(name string) []byte {
	u16 := func(b []byte) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...) }
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0, 0, 2, 0x13, 1, 1, 0)
	if name == "" {
		body = append(body, u16([]byte{0, 23, 0, 0})...)
	} else {
		sni := append([]byte{0, 0}, u16(u16(append([]byte{0}, u16([]byte(name))...)))...)
		body = append(body, u16(sni)...)
	}
	msg := append([]byte{1, 0}, u16(body)...)
	return append([]byte{0x16, 3, 1}, u16(msg)...)
}

// BenchmarkRelay is one stream through the whole path, both stacks included.
func BenchmarkRelay(b *testing.B) {
	bed := newBed(b, rule("a", "allow", allowA))
	bed.pins.pin("a.test", shared)
	dst := ap(shared, 22)
	bed.serve(func(c net.Conn) { // not the tap: it would keep the bytes
		_, _ = io.CopyBuffer(io.Discard, struct{ io.Reader }{c.(*tapped).Conn}, make([]byte, largeBuffer))
	}, dst)
	c := bed.connect(dst)
	_ = c.SetDeadline(time.Time{})
	_, _ = io.WriteString(c, "EHLO h\r\n")
	block := make([]byte, 1<<20)
	b.SetBytes(int64(len(block)))
	for b.Loop() {
		if _, err := c.Write(block); err != nil {
			b.Fatal(err)
		}
	}
}

var _ Auditor = (*recorder)(nil)
