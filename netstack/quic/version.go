package quic

import "encoding/binary"

// The versions that are read.
const (
	Version1 = 0x00000001 // RFC 9000
	Version2 = 0x6b3343cf // RFC 9369
)

// minInitial is the least size of a datagram with a client's first Initial, in
// every version that was ever deployed (RFC 9000 section 14.1).
const minInitial = 1200

// A class is what the first octets of a datagram tell by the properties that
// no version changes (RFC 8999).
type class uint8

const (
	classShort class = iota // form bit 0: a 1-RTT packet, or no QUIC at all
	classOther              // form bit 1, but no QUIC
	classNegotiation
	classUnknown
	classKnown
)

// classify returns the class of a datagram, and its version behind classOther.
func classify(b []byte) (class, uint32) {
	if len(b) == 0 || b[0]&formBit == 0 {
		return classShort, 0
	}
	if len(b) < 5 {
		return classOther, 0
	}
	v := binary.BigEndian.Uint32(b[1:])
	if v == Version1 || v == Version2 {
		return classKnown, v
	}
	rest, ok := skipIDs(b[5:])
	switch {
	case !ok:
		return classOther, v
	case v == 0 && rest > 0 && rest%4 == 0:
		return classNegotiation, v
	case v == 0:
		return classOther, v
	case deployed(v), b[0]&fixedBit != 0 && len(b) >= minInitial:
		return classUnknown, v
	}
	return classOther, v
}

// skipIDs passes over both connection IDs and returns how much is left.
func skipIDs(b []byte) (rest int, ok bool) {
	for range 2 {
		if len(b) < 1 || len(b) < 1+int(b[0]) {
			return 0, false
		}
		b = b[1+int(b[0]):]
	}
	return len(b), true
}

// deployed reports versions that some server speaks or answers, so that even a
// small datagram of theirs is no other protocol. Every other version is QUIC
// only where the datagram could open a connection: many protocols over UDP
// set the first bit (RTP, DNS with a high id), and must stay what they are.
func deployed(v uint32) bool {
	switch {
	case v&0x0f0f0f0f == 0x0a0a0a0a: // reserved, to force a negotiation (RFC 9000 section 15)
		return true
	case v>>8 == 0xff0000: // IETF drafts
		return true
	case v>>16 == 'Q'<<8|'0', v>>16 == 'T'<<8|'0': // Google QUIC
		return true
	case v>>4 == 0xfaceb00, v>>4 == 0xabcd000: // mvfst, MsQuic
		return true
	}
	return v == 0x709a50c4 // drafts of version 2
}
