package quic

import (
	"errors"
	"fmt"
)

// The frames that a client's Initial may carry (RFC 9000 section 12.4, table
// 3). Their numbers stand in one octet: a longer form is an error.
const (
	framePadding = 0x00
	framePing    = 0x01
	frameAck     = 0x02
	frameAckECN  = 0x03
	frameCrypto  = 0x06
	frameClose   = 0x1c
)

// readFrames walks over the frames of an Initial and gives CRYPTO to the
// stream. What follows a CONNECTION_CLOSE is read like everything else.
func readFrames(b []byte, s *stream) error {
	if len(b) == 0 {
		return errors.New("an Initial without frames")
	}
	c := cursor{b: b}
	for c.at < len(b) && c.err == nil {
		switch t := b[c.at]; t {
		case framePadding, framePing:
			c.at++
		case frameAck, frameAckECN:
			c.at++
			c.ack(t == frameAckECN)
		case frameCrypto:
			c.at++
			at := c.varint()
			data := c.take(c.varint())
			if c.err == nil {
				c.err = s.insert(at, data)
			}
		case frameClose:
			c.at++
			c.varint()
			c.varint()
			c.take(c.varint())
		default:
			return fmt.Errorf("a frame of type %#02x in an Initial", t)
		}
	}
	return c.err
}

// ack reads an ACK frame behind its type (section 19.3): ranges that go down
// from the largest number and never below 0.
func (c *cursor) ack(ecn bool) {
	low := c.varint()
	c.varint() // delay
	ranges := c.varint()
	c.down(&low, c.varint())
	for ; ranges > 0 && c.err == nil; ranges-- {
		gap := c.varint()
		c.down(&low, gap+2)
		c.down(&low, c.varint())
	}
	if ecn {
		c.varint()
		c.varint()
		c.varint()
	}
}

func (c *cursor) down(low *uint64, by uint64) {
	switch {
	case c.err != nil:
	case by > *low:
		c.err = errors.New("an ACK of a negative packet number")
	default:
		*low -= by
	}
}
