// Package hello reads the first message of a TLS client, the ClientHello (RFC
// 8446 section 4.1.2), as far as a verdict needs it, without being a TLS
// implementation. It is strict: what a server could read in another way is an
// error, never a guess.
//
//	record layer   one handshake message over any number of records, none
//	               empty, of one content type (RFC 8446 section 5.1)
//	server_name    at most one extension, exactly one host_name, no literal
//	               address, no byte outside letters, digits, '-', '_' and '.'
//	the rest       ALPN, ECH, the highest version offered
//
// The package holds no state but a Reader's and a Watch's; it allocates at
// most one message.
package hello

import (
	"errors"
	"fmt"
	"slices"
)

// Limits. Beyond each, reading ends with an error.
const (
	// MaxMessage is the longest ClientHello, its 4-octet header included.
	// Servers stop here or before; a client with a post-quantum key share and
	// every extension stays below 4 KiB.
	MaxMessage = 16 << 10
	// MaxWire is MaxMessage in records of one octet each.
	MaxWire = MaxMessage * (recordHeader + 1)
)

const (
	recordHeader    = 5
	handshakeHeader = 4
	maxRecord       = 1 << 14 // RFC 8446 section 5.1

	recordAlert     = 0x15
	recordHandshake = 0x16

	typeClientHello = 1
	typeServerHello = 2
)

// Errors that callers tell apart.
var (
	// ErrShort means that the message is not complete yet.
	ErrShort = errors.New("incomplete ClientHello")
	// ErrTooLong means that it is longer than MaxMessage.
	ErrTooLong = fmt.Errorf("ClientHello longer than %d octets", MaxMessage)
)

// A Hello is what one ClientHello told.
type Hello struct {
	// SNI is lower case, without trailing dot; "" means none was sent.
	SNI string
	// ALPN is nil where the extension is absent.
	ALPN []string
	// ECH is set where encrypted_client_hello was sent; GREASE cannot be told
	// from it.
	ECH bool
	// Version is the highest version offered: "1.0" to "1.3", "" if none that
	// we know.
	Version string
}

// Same reports whether a second ClientHello asks for the same as the first
// one that was judged. A server may serve the second one's name (kernel.md,
// TLS), so any difference is a refusal. ECH must be there or not there alike.
func (h Hello) Same(o Hello) bool {
	return h.SNI == o.SNI && h.ECH == o.ECH &&
		(h.ALPN == nil) == (o.ALPN == nil) && slices.Equal(h.ALPN, o.ALPN)
}

// IsTLS reports whether these first bytes can be TLS for a server: a handshake
// record, an SSLv2 hello, or an alert, which servers skip where it is a
// warning, to read the hello behind it. more means that too little is there
// to tell.
func IsTLS(b []byte) (yes, more bool) {
	if len(b) == 0 {
		return false, true
	}
	if b[0] == recordHandshake {
		return true, false
	}
	if b[0] == recordAlert {
		return begins(b, plainAlert)
	}
	return isSSLv2(b)
}

// plainAlert is the header of an alert record before a version is agreed:
// some servers take any version below 0x1000 there (crypto/tls).
var plainAlert = []func(byte) bool{
	func(c byte) bool { return c == recordAlert },
	func(c byte) bool { return c < 0x10 },
	func(byte) bool { return true },
	func(c byte) bool { return c == 0 },
	func(c byte) bool { return c == 2 },
}

// sslv2Hello is the start of an SSLv2 CLIENT-HELLO with a 2-octet header:
// length with the high bit, message type 1, then a version of SSLv2 or of
// SSLv3 and later.
var sslv2Hello = []func(byte) bool{
	func(c byte) bool { return c&0x80 != 0 },
	func(byte) bool { return true },
	func(c byte) bool { return c == 1 },
	func(c byte) bool { return c == 0 || c == 3 },
}

// begins matches octet by octet.
func begins(b []byte, want []func(byte) bool) (yes, more bool) {
	for i, ok := range want {
		if i >= len(b) {
			return false, true
		}
		if !ok(b[i]) {
			return false, false
		}
	}
	return true, false
}

// isSSLv2 knows the SSLv2 hello that old servers take as the start of any
// version.
func isSSLv2(b []byte) (yes, more bool) {
	if yes, more = begins(b, sslv2Hello); !yes {
		return yes, more
	}
	if b[3] == 3 {
		return true, false
	}
	if len(b) < 5 {
		return false, true
	}
	return b[4] == 2, false
}

// Parse reads the ClientHello at the start of b. n is the length of the
// records that carry it. ErrShort asks for more bytes; every other error is
// final.
func Parse(b []byte) (h Hello, n int, err error) {
	msg, n, err := message(b)
	if err != nil {
		return Hello{}, 0, err
	}
	if h, err = ParseMessage(msg); err != nil {
		return Hello{}, 0, err
	}
	return h, n, nil
}

// ParseMessage reads a ClientHello that came without records, as in QUIC: b is
// the whole message with its header, and nothing behind it.
func ParseMessage(b []byte) (Hello, error) {
	if len(b) < handshakeHeader || len(b)-handshakeHeader != int(b[1])<<16+int(b[2])<<8+int(b[3]) {
		return Hello{}, errors.New("a handshake message whose length is not its own")
	}
	if b[0] != typeClientHello {
		return Hello{}, fmt.Errorf("handshake message %d where a ClientHello must be", b[0])
	}
	return parseClientHello(b[handshakeHeader:])
}

// message joins the records that carry the first handshake message. The
// message must end where a record ends: bytes after it in the same record are
// no flight that a client may send.
func message(b []byte) (msg []byte, n int, err error) {
	need := handshakeHeader
	for owned := false; ; {
		frag, err := record(b[n:])
		if err != nil {
			return nil, 0, err
		}
		n += recordHeader + len(frag)
		switch {
		case msg == nil:
			msg = frag // one record is the rule: no copy
		case !owned:
			msg, owned = append(slices.Clip(msg), frag...), true
		default:
			msg = append(msg, frag...)
		}
		if len(msg) >= handshakeHeader {
			need = handshakeHeader + int(msg[1])<<16 + int(msg[2])<<8 + int(msg[3])
		}
		switch {
		case need > MaxMessage:
			return nil, 0, ErrTooLong
		case len(msg) > need:
			return nil, 0, errors.New("bytes after the ClientHello in its record")
		case len(msg) == need && need > handshakeHeader:
			return msg, n, nil
		case len(msg) == need && len(msg) >= handshakeHeader:
			return nil, 0, errors.New("empty handshake message")
		}
	}
}

// record returns the payload of the handshake record at the start of b.
func record(b []byte) ([]byte, error) {
	if len(b) > 0 && b[0] != recordHandshake {
		return nil, fmt.Errorf("record of type %d inside the ClientHello", b[0])
	}
	if len(b) > 1 && b[1] != 3 {
		return nil, fmt.Errorf("record version %d.x", b[1])
	}
	if len(b) < recordHeader {
		return nil, ErrShort
	}
	size := int(b[3])<<8 | int(b[4])
	if size == 0 {
		return nil, errors.New("empty handshake record")
	}
	if size > maxRecord {
		return nil, fmt.Errorf("handshake record of %d octets", size)
	}
	if len(b) < recordHeader+size {
		return nil, ErrShort
	}
	return b[recordHeader : recordHeader+size], nil
}

// Alert is a fatal access_denied alert (RFC 8446 section 6.2) in a record of
// its own: what a client of any version shows its user before the close.
func Alert() []byte { return []byte{recordAlert, 3, 3, 0, 2, 2, 49} }
