package dnsfilter

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

const (
	// maxForeign is how many datagrams that do not answer the question are
	// read before an exchange is given up: someone is guessing.
	maxForeign = 64
	// maxDatagram bounds a UDP reply; we offered less.
	maxDatagram = 4096
)

// Sockets is the Exchanger of ordinary sockets of the host. Each question has
// a socket and so a random source port of its own; a UDP socket is connected,
// so that the kernel drops what other addresses send.
type Sockets struct{}

// Exchange implements Exchanger.
func (Sockets) Exchange(ctx context.Context, server netip.AddrPort, tcp bool, query []byte, accept func([]byte) bool) ([]byte, error) {
	network := "udp"
	if tcp {
		network = "tcp"
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	// The deadline covers ctx's, and AfterFunc its cancellation.
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if tcp {
		return exchangeTCP(c, query)
	}
	if _, err := c.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, maxDatagram)
	for range maxForeign {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		if accept(buf[:n]) {
			return buf[:n], nil
		}
	}
	return nil, fmt.Errorf("%d datagrams that answer another question", maxForeign)
}

func exchangeTCP(c net.Conn, query []byte) ([]byte, error) {
	if err := writeFramed(c, query); err != nil {
		return nil, err
	}
	return readFramed(c, 1<<16-1)
}

// writeFramed sends a message with its length before it (RFC 1035, 4.2.2), in
// one write.
func writeFramed(w io.Writer, msg []byte) error {
	if len(msg) > 1<<16-1 {
		return errors.New("message longer than 65535 bytes")
	}
	buf := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(msg)), uint16(len(msg)))
	_, err := w.Write(append(buf, msg...))
	return err
}

// readFramed reads one message of at most limit bytes.
func readFramed(r io.Reader, limit int) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > limit {
		return nil, fmt.Errorf("message of %d bytes, more than %d", n, limit)
	}
	msg := make([]byte, n)
	_, err := io.ReadFull(r, msg)
	return msg, err
}
