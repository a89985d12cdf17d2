// Package quictest makes the client packets of QUIC by hand, honest and not,
// for the tests of the reader's users. It shares no code with the reader.
package quictest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// The versions that can be made (RFC 9001, RFC 9369).
const (
	Version1 = 0x00000001
	Version2 = 0x6b3343cf
)

// MinInitial is the least size of a datagram that opens a connection.
const MinInitial = 1200

// An Initial is a client's Initial packet; its zero values are those of an
// honest first one of version 1.
type Initial struct {
	Version uint32
	Key     []byte // the ID that the keys come from; ID if nil
	ID      []byte // Destination Connection ID
	Number  byte   // packet number
	Frames  []byte
	Pad     int // the size of the packet that PADDING brings it to
}

var salts = map[uint32]string{
	Version1: "38762cf7f55934b34d179ae6a4c80cadccbb7f0a",
	Version2: "0dede3def700a6db819381be6e269dcbf9bd2ed9",
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("quictest: %v", err))
	}
	return v
}

// label is HKDF-Expand-Label with an empty context (RFC 8446 section 7.1).
func label(secret []byte, name string, n int) []byte {
	name = "tls13 " + name
	info := string([]byte{0, byte(n), byte(len(name))}) + name + "\x00"
	return must(hkdf.Expand(sha256.New, secret, info, n))
}

// Seal returns the packet as it travels.
func (p Initial) Seal() []byte {
	if p.Version == 0 {
		p.Version = Version1
	}
	if p.Key == nil {
		p.Key = p.ID
	}
	prefix, typ := "quic ", byte(0)
	if p.Version == Version2 {
		prefix, typ = "quicv2 ", 1
	}
	secret := label(must(hkdf.Extract(sha256.New, p.Key, must(hex.DecodeString(salts[p.Version])))), "client in", sha256.Size)
	key, iv, hp := label(secret, prefix+"key", 16), label(secret, prefix+"iv", 12), label(secret, prefix+"hp", 16)

	head := binary.BigEndian.AppendUint32([]byte{0xc0 | typ<<4}, p.Version)
	head = append(append(head, byte(len(p.ID))), p.ID...)
	head = append(head, 0, 0) // no source ID, no token
	const number, tag = 1, 16
	body := append([]byte(nil), p.Frames...)
	if n := p.Pad - len(head) - 2 - number - len(body) - tag; n > 0 {
		body = append(body, make([]byte, n)...)
	}
	head = binary.BigEndian.AppendUint16(head, 0x4000|uint16(number+len(body)+tag))
	at := len(head)
	head = append(head, p.Number)
	iv[11] ^= p.Number
	out := must(cipher.NewGCM(must(aes.NewCipher(key)))).Seal(head, iv, body, head)
	mask := make([]byte, aes.BlockSize)
	must(aes.NewCipher(hp)).Encrypt(mask, out[at+4:at+4+aes.BlockSize])
	out[0] ^= mask[0] & 0x0f
	out[at] ^= mask[1]
	return out
}

// Hello is a datagram that asks for a connection to a server of this name.
func Hello(id []byte, name string) []byte {
	return Initial{ID: id, Frames: Crypto(0, ClientHello(name)), Pad: MinInitial}.Seal()
}

// Halves is Hello in two datagrams, of which neither has the whole name.
func Halves(id []byte, name string) (a, b []byte) {
	msg := ClientHello(name)
	cut := len(msg) - len(name)/2 - 20
	return Initial{ID: id, Frames: Crypto(0, msg[:cut]), Pad: MinInitial}.Seal(),
		Initial{ID: id, Number: 1, Frames: Crypto(cut, msg[cut:]), Pad: MinInitial}.Seal()
}

// Crypto is a CRYPTO frame.
func Crypto(at int, data []byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte{6}, 0x4000|uint16(at))
	b = binary.BigEndian.AppendUint16(b, 0x4000|uint16(len(data)))
	return append(b, data...)
}

// ClientHello is a small one with this name and ALPN h3.
func ClientHello(name string) []byte {
	list := func(b []byte) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...) }
	extension := func(typ uint16, b []byte) []byte { return append(binary.BigEndian.AppendUint16(nil, typ), list(b)...) }
	exts := append(extension(16, []byte{0, 3, 2, 'h', '3'}), extension(0, list(append([]byte{0}, list([]byte(name))...)))...)
	body := append([]byte{3, 3}, make([]byte, 32)...)                  // version, random
	body = append(append(body, 0, 0, 2, 0x13, 1, 1, 0), list(exts)...) // no session, one cipher suite, no compression
	return append([]byte{1, 0}, list(body)...)
}
