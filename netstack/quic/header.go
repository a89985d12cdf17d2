package quic

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	formBit  = 0x80
	fixedBit = 0x40

	// maxID is the longest connection ID of both versions (RFC 9000 section
	// 17.2). Beyond it a packet is Malformed.
	maxID = 20
	// minFirstID is the shortest ID of a client's first Initial (section 7.2).
	minFirstID = 8
	// sampleAt is where header protection takes its sample, counted from the
	// packet number; behind it stand as many octets (RFC 9001 section 5.4.2).
	sampleAt   = 4
	sampleSize = 16
)

// A kind is a long header's packet type, the same for both versions.
type kind uint8

const (
	kindInitial kind = iota
	kindZeroRTT
	kindHandshake
	kindRetry
)

// A packet is one long-header packet of a datagram.
type packet struct {
	kind    kind
	version uint32
	dcid    []byte
	pnAt    int    // where the packet number begins in raw
	raw     []byte // the packet, without those behind it
}

var errShort = errors.New("a packet cut short")

// parseHeader reads the packet at the start of b, whose form bit is set.
func parseHeader(b []byte) (p packet, rest []byte, err error) {
	if len(b) < 5 {
		return packet{}, nil, errShort
	}
	p.version = binary.BigEndian.Uint32(b[1:])
	switch p.version {
	case Version1:
		p.kind = kind(b[0] >> 4 & 3)
	case Version2: // RFC 9369 section 3.2
		p.kind = kind((b[0]>>4 + 3) & 3)
	default:
		return packet{}, nil, fmt.Errorf("a packet of version %#08x behind another one", p.version)
	}
	if p.kind == kindRetry {
		return packet{}, nil, errors.New("a Retry from the client")
	}
	c := cursor{b: b, at: 5}
	p.dcid = c.id()
	c.id()
	if p.kind == kindInitial {
		c.take(c.varint()) // token
	}
	size := c.varint()
	if c.err != nil {
		return packet{}, nil, c.err
	}
	p.pnAt = c.at
	c.take(size)
	switch {
	case c.err != nil:
		return packet{}, nil, c.err
	case size < sampleAt+sampleSize:
		return packet{}, nil, fmt.Errorf("a packet of %d octets behind its header", size)
	}
	p.raw = b[:c.at]
	return p, b[c.at:], nil
}

// A cursor reads the fields of headers and frames; err stays set after the
// first failure, so that a chain of reads is checked once.
type cursor struct {
	b   []byte
	at  int
	err error
}

func (c *cursor) take(n uint64) []byte {
	if c.err != nil {
		return nil
	}
	if n > uint64(len(c.b)-c.at) {
		c.err = errShort
		return nil
	}
	v := c.b[c.at : c.at+int(n)]
	c.at += int(n)
	return v
}

// id reads a connection ID with its length.
func (c *cursor) id() []byte {
	n := c.take(1)
	if c.err == nil && n[0] > maxID {
		c.err = fmt.Errorf("a connection ID of %d octets", n[0])
	}
	if c.err != nil {
		return nil
	}
	return c.take(uint64(n[0]))
}

// varint reads a variable-length integer (RFC 9000 section 16).
func (c *cursor) varint() uint64 {
	first := c.take(1)
	if c.err != nil {
		return 0
	}
	v := uint64(first[0] & 0x3f)
	for _, o := range c.take(1<<(first[0]>>6) - 1) {
		v = v<<8 | uint64(o)
	}
	return v
}
