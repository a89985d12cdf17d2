package quic

import (
	"crypto/aes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"testing"
)

// rawKeys derives packet and header key once more, to have them in the open.
func rawKeys(t testing.TB, version uint32, id []byte) (key, hp []byte) {
	t.Helper()
	salt, prefix := saltV1, "quic "
	if version == Version2 {
		salt, prefix = saltV2, "quicv2 "
	}
	initial, err := hkdf.Extract(sha256.New, id, salt)
	if err != nil {
		t.Fatal(err)
	}
	secret, err1 := expand(initial, "client in", 32)
	key, err2 := expand(secret, prefix+"key", 16)
	hp, err3 := expand(secret, prefix+"hp", 16)
	if err1 != nil || err2 != nil || err3 != nil {
		t.Fatal(err1, err2, err3)
	}
	return key, hp
}

// A field is an element of GF(2^128) in GCM's order of bits.
type field [2]uint64

func (a field) add(b field) field { return field{a[0] ^ b[0], a[1] ^ b[1]} }

func (a field) mul(b field) (z field) {
	for i := range 128 {
		if a[i/64]>>(63-i%64)&1 == 1 {
			z = z.add(b)
		}
		low := b[1] & 1
		b = field{b[0] >> 1, b[1]>>1 | b[0]<<63}
		b[0] ^= low * 0xe1 << 56
	}
	return z
}

// inverse is a^(2^128-2).
func (a field) inverse() field {
	z := field{1 << 63}
	for range 127 {
		a = a.mul(a)
		z = z.mul(a)
	}
	return z
}

func load(b []byte) field {
	return field{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

func (a field) store(b []byte) {
	binary.BigEndian.PutUint64(b, a[0])
	binary.BigEndian.PutUint64(b[8:], a[1])
}

// ghash is GCM's over padded head and body.
func ghash(h field, head, body []byte) (z field) {
	for _, b := range [][]byte{head, body} {
		for len(b) > 0 {
			var block [16]byte
			b = b[copy(block[:], b):]
			z = z.add(load(block[:])).mul(h)
		}
	}
	return z.add(field{uint64(len(head)) * 8, uint64(len(body)) * 8}).mul(h)
}

// tagOf returns what the tag of body is under k, and GHASH's key; ok is false
// where the packet number has not one octet.
func tagOf(t testing.TB, pkt []byte, pnAt int, id []byte) (tag, h field, ok bool) {
	key, hp := rawKeys(t, Version1, id)
	k, err := deriveKeys(Version1, id)
	if err != nil {
		t.Fatal(err)
	}
	cb, err1 := aes.NewCipher(key)
	hb, err2 := aes.NewCipher(hp)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	var mask, zero, ctr, out [16]byte
	hb.Encrypt(mask[:], pkt[pnAt+4:pnAt+20])
	head := append([]byte(nil), pkt[:pnAt+1]...)
	head[0] ^= mask[0] & 0x0f
	head[pnAt] ^= mask[1]
	cb.Encrypt(out[:], zero[:])
	h = load(out[:])
	copy(ctr[:], k.iv)
	ctr[11] ^= head[pnAt]
	ctr[15] = 1
	cb.Encrypt(out[:], ctr[:])
	tag = load(out[:]).add(ghash(h, head, pkt[pnAt+1:len(pkt)-16]))
	return tag, h, head[0]&0x0f == 0
}

// twoKeys makes an Initial that opens with the keys of both IDs: GCM's tag is
// linear in the ciphertext, so one block of it can be chosen to make the two
// tags equal.
func twoKeys(t testing.TB, dcid, other []byte) []byte {
	t.Helper()
	const body = 1152 // whole blocks; the last one is the free one
	p := initial{version: Version1, dcid: dcid, pnLen: 1}
	for range 1 << 14 {
		pkt := p.head(1 + body + 16)
		pnAt := len(pkt)
		pkt = append(pkt, make([]byte, 1+body+16)...)
		_, _ = rand.Read(pkt[pnAt:])
		free := pkt[len(pkt)-32 : len(pkt)-16]
		clear(free)
		pkt[0] = pkt[0]&0xf0 | byte(pkt[pnAt]&0x0f)
		t1, h1, ok1 := tagOf(t, pkt, pnAt, dcid)
		t2, h2, ok2 := tagOf(t, pkt, pnAt, other)
		if !ok1 || !ok2 {
			continue
		}
		// The free block and the length block behind it: times h squared.
		x := t1.add(t2).mul(h1.mul(h1).add(h2.mul(h2)).inverse())
		x.store(free)
		tag, _, _ := tagOf(t, pkt, pnAt, dcid)
		tag.store(pkt[len(pkt)-16:])
		return pkt
	}
	t.Fatal("no such packet")
	return nil
}
