package quic

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// The client's Initial secrets are no secrets: salt and labels are constants of
// the version (RFC 9001 section 5.2, RFC 9369 section 3.3).
var (
	saltV1 = []byte{0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb, 0x7f, 0x0a}
	saltV2 = []byte{0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb, 0xf9, 0xbd, 0x2e, 0xd9}
)

// keys open the client's Initial packets of one connection and version.
type keys struct {
	aead cipher.AEAD
	iv   []byte
	hp   cipher.Block
}

// deriveKeys makes the keys from the ID of the client's first Initial.
func deriveKeys(version uint32, id []byte) (*keys, error) {
	salt, prefix := saltV1, "quic "
	if version == Version2 {
		salt, prefix = saltV2, "quicv2 "
	}
	initial, err := hkdf.Extract(sha256.New, id, salt)
	if err != nil {
		return nil, fmt.Errorf("derive Initial keys: %w", err)
	}
	secret, err := expand(initial, "client in", sha256.Size)
	key, err1 := expand(secret, prefix+"key", 16)
	iv, err2 := expand(secret, prefix+"iv", 12)
	hp, err3 := expand(secret, prefix+"hp", 16)
	if err := errors.Join(err, err1, err2, err3); err != nil {
		return nil, fmt.Errorf("derive Initial keys: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("derive Initial keys: %w", err)
	}
	k := &keys{iv: iv}
	if k.aead, err = cipher.NewGCM(block); err != nil {
		return nil, fmt.Errorf("derive Initial keys: %w", err)
	}
	if k.hp, err = aes.NewCipher(hp); err != nil {
		return nil, fmt.Errorf("derive Initial keys: %w", err)
	}
	return k, nil
}

// expand is HKDF-Expand-Label with an empty context (RFC 8446 section 7.1).
func expand(secret []byte, label string, n int) ([]byte, error) {
	label = "tls13 " + label
	info := append([]byte{byte(n >> 8), byte(n), byte(len(label))}, label...)
	return hkdf.Expand(sha256.New, secret, string(append(info, 0)), n)
}

// An opened packet.
type opened struct {
	frames   []byte
	pn       uint64 // as written in the packet, which is not always whole
	window   uint64 // how many numbers fit its length
	reserved bool   // a reserved bit is set
}

// open removes header protection and opens p. The datagram stays as it is, for
// it is sent on; buf is the room to work in. ok is false with other keys.
func (k *keys) open(p packet, buf []byte) (o opened, ok bool) {
	buf = append(buf[:0], p.raw...)
	var mask [aes.BlockSize]byte
	k.hp.Encrypt(mask[:], buf[p.pnAt+sampleAt:][:sampleSize])
	buf[0] ^= mask[0] & 0x0f
	size := int(buf[0]&3) + 1
	var nonce [12]byte
	copy(nonce[:], k.iv)
	for i := range size {
		buf[p.pnAt+i] ^= mask[1+i]
		o.pn = o.pn<<8 | uint64(buf[p.pnAt+i])
	}
	for i, c := range binary.BigEndian.AppendUint64(nil, o.pn) {
		nonce[4+i] ^= c
	}
	o.window = 1 << (8 * size)
	o.reserved = buf[0]&0x0c != 0
	head := p.pnAt + size
	plain, err := k.aead.Open(buf[head:head], nonce[:], buf[head:], buf[:head])
	o.frames = plain
	return o, err == nil
}

// decode is the packet number that a server whose largest is largest-1 reads
// (RFC 9000 appendix A.3).
func decode(pn, window, expected uint64) uint64 {
	full := expected&^(window-1) | pn
	switch {
	case full+window/2 <= expected:
		return full + window
	case full > expected+window/2 && full >= window:
		return full - window
	}
	return full
}
