package quic

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"testing"

	"outcall/netstack/hello"
)

// An initial is a client packet to be sealed; its zero value is an honest one
// of version 1.
type initial struct {
	version uint32
	key     []byte // the ID that the keys come from; the DCID if nil
	dcid    []byte
	scid    []byte
	token   []byte
	pn      uint64
	pnLen   int // 4 if 0
	first   byte
	payload []byte
	pad     int // the size of the packet that PADDING brings it to
	kind    kind
}

// unmasked are the first octet's bits besides those that kind and pnLen set.
const unmasked = formBit | fixedBit

func (p initial) head(size int) []byte {
	first := p.first
	if first == 0 {
		first = unmasked
	}
	typ := byte(p.kind)
	if p.version == Version2 {
		typ = (typ + 1) & 3
	}
	b := []byte{first | typ<<4 | byte(p.pnLen-1)}
	b = binary.BigEndian.AppendUint32(b, p.version)
	b = append(append(b, byte(len(p.dcid))), p.dcid...)
	b = append(append(b, byte(len(p.scid))), p.scid...)
	if p.kind == kindInitial {
		b = append(varint(len(p.token), b), p.token...)
	}
	return binary.BigEndian.AppendUint16(b, 0x4000|uint16(size))
}

func varint(v int, b []byte) []byte {
	switch {
	case v < 1<<6:
		return append(b, byte(v))
	case v < 1<<14:
		return binary.BigEndian.AppendUint16(b, 0x4000|uint16(v))
	}
	return binary.BigEndian.AppendUint32(b, 0x80000000|uint32(v))
}

// seal protects the packet as a client does.
func (p initial) seal(t testing.TB) []byte {
	t.Helper()
	if p.version == 0 {
		p.version = Version1
	}
	if p.pnLen == 0 {
		p.pnLen = 4
	}
	if p.key == nil {
		p.key = p.dcid
	}
	body := bytes.Clone(p.payload)
	if n := p.pad - len(p.head(0)) - p.pnLen - len(body) - 16; n > 0 {
		body = append(body, make([]byte, n)...)
	}
	if n := 4 - p.pnLen - len(body); n > 0 {
		body = append(body, make([]byte, n)...) // room for the sample
	}
	k, err := deriveKeys(p.version, p.key)
	if err != nil {
		t.Fatal(err)
	}
	head := p.head(p.pnLen + len(body) + 16)
	pnAt := len(head)
	number := binary.BigEndian.AppendUint64(nil, p.pn)
	head = append(head, number[8-p.pnLen:]...)
	nonce := bytes.Clone(k.iv)
	for i, c := range number {
		nonce[4+i] ^= c
	}
	out := k.aead.Seal(head, nonce, body, head)
	mask := make([]byte, 16)
	k.hp.Encrypt(mask, out[pnAt+4:pnAt+20])
	out[0] ^= mask[0] & 0x0f
	for i := range p.pnLen {
		out[pnAt+i] ^= mask[1+i]
	}
	return out
}

// crypto is a CRYPTO frame.
func crypto(at int, data []byte) []byte {
	b := varint(len(data), varint(at, []byte{frameCrypto}))
	return append(b, data...)
}

var (
	id1 = []byte{0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08}
	id2 = []byte("another connection")
	id3 = []byte("server's")
)

// datagram is an Initial of full size with one CRYPTO frame of the message.
func datagram(t testing.TB, id []byte, at int, data []byte) []byte {
	return initial{dcid: id, payload: crypto(at, data), pad: minInitial, pn: uint64(at)}.seal(t)
}

// clientHello is what crypto/tls sends in QUIC to a server of this name.
func clientHello(t testing.TB, name string, cfg *tls.Config) []byte {
	t.Helper()
	if cfg == nil {
		cfg = &tls.Config{NextProtos: []string{"h3"}, CurvePreferences: []tls.CurveID{tls.X25519}}
	}
	cfg.ServerName, cfg.MinVersion = name, tls.VersionTLS13
	q := tls.QUICClient(&tls.QUICConfig{TLSConfig: cfg})
	defer q.Close()
	q.SetTransportParameters([]byte{1, 2, 0x40, 0x64})
	if err := q.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	var out []byte
	for e := q.NextEvent(); e.Kind != tls.QUICNoEvent; e = q.NextEvent() {
		if e.Kind == tls.QUICWriteData && e.Level == tls.QUICEncryptionLevelInitial {
			out = append(out, e.Data...)
		}
	}
	if len(out) == 0 {
		t.Fatal("crypto/tls gave no ClientHello")
	}
	return out
}

// forge makes a small ClientHello with this name, ALPN h3 and filler.
func forge(name string, filler int, more ...byte) []byte {
	u16 := func(b []byte) []byte {
		return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
	}
	ext := func(typ uint16, b []byte) []byte {
		return append(binary.BigEndian.AppendUint16(nil, typ), u16(b)...)
	}
	exts := ext(0, u16(append([]byte{0}, u16([]byte(name))...)))
	exts = append(exts, ext(16, []byte{0, 3, 2, 'h', '3'})...)
	exts = append(exts, ext(21, make([]byte, filler))...)
	exts = append(exts, more...)
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0, 0, 2, 0x13, 1, 1, 0)
	body = append(body, u16(exts)...)
	return append([]byte{typeClientHello, byte(len(body) >> 16)}, u16(body)...)
}

// want checks one answer.
func want(t testing.TB, r *Reader, d []byte, a Answer) Report {
	t.Helper()
	before := bytes.Clone(d)
	got := r.Datagram(d)
	if got.Answer != a {
		t.Fatalf("answer %q (%v), want %q", got.Answer, got.Err, a)
	}
	if (got.Err != nil) != (a == Malformed || a == UnknownVersion) {
		t.Fatalf("answer %q with error %v", a, got.Err)
	}
	if !bytes.Equal(before, d) {
		t.Fatal("the datagram was changed")
	}
	return got
}

// wantErr checks a refusal and its reason, and that it is for good.
func wantErr(t testing.TB, r *Reader, d []byte, why string) {
	t.Helper()
	if got := want(t, r, d, Malformed); !bytes.Contains([]byte(got.Err.Error()), []byte(why)) {
		t.Fatalf("refused because of %q, want %q", got.Err, why)
	}
	want(t, r, []byte{fixedBit}, Malformed)
	want(t, r, datagram(t, id1, 0, forge("a.test", 0)), Malformed)
}

func sameHello(t testing.TB, got Report, sni string) {
	t.Helper()
	w := hello.Hello{SNI: sni, ALPN: []string{"h3"}}
	if !got.Hello.Same(w) {
		t.Fatalf("hello %+v, want %+v", got.Hello, w)
	}
}
