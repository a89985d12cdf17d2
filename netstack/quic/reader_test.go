package quic

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
)

// Honest clients: each flow must come to its hello, and go on.

func TestOneDatagram(t *testing.T) {
	for _, v := range []uint32{Version1, Version2} {
		r := NewReader(NewSeen())
		msg := clientHello(t, "api.allowed.test", nil)
		got := want(t, r, initial{version: v, dcid: id1, payload: crypto(0, msg), pad: minInitial}.seal(t), Complete)
		if sameHello(t, got, "api.allowed.test"); !got.First || got.Version != v || got.Hello.Version != "1.3" {
			t.Errorf("%+v", got)
		}
		want(t, r, []byte{fixedBit, 1, 2, 3}, Pass)
		hs := initial{version: v, dcid: id3, kind: kindHandshake, payload: make([]byte, 60)}.seal(t)
		want(t, r, hs, Pass)
		want(t, r, append(hs, fixedBit, 7, 7), Pass)
	}
}

// A post-quantum key share needs two datagrams; they come in any order.
func TestTwoDatagramsAnyOrder(t *testing.T) {
	msg := clientHello(t, "api.allowed.test", &tls.Config{NextProtos: []string{"h3"}})
	if len(msg) < minInitial {
		t.Fatalf("a ClientHello of %d octets: no post-quantum key share?", len(msg))
	}
	a, b := datagram(t, id1, 0, msg[:1000]), datagram(t, id1, 1000, msg[1000:])
	for _, order := range [][][]byte{{a, b}, {b, a}, {a, a, b}, {b, b, a}} {
		r := NewReader(NewSeen())
		for _, d := range order[:len(order)-1] {
			want(t, r, d, NeedMore)
		}
		got := want(t, r, order[len(order)-1], Complete)
		sameHello(t, got, "api.allowed.test")
		want(t, r, a, Pass) // a repetition
	}
}

// Every permutation and split that a client could choose, also many small
// frames in no order with PADDING and PING between them, as Chromium sends.
func TestSplitCrypto(t *testing.T) {
	msg := forge("api.allowed.test", 2500)
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 30 {
		var frames [][]byte
		for at := 0; at < len(msg); {
			n := min(1+rng.IntN(300), len(msg)-at)
			from := max(0, at-rng.IntN(20)) // overlaps that agree
			frames = append(frames, crypto(from, msg[from:at+n]))
			at += n
		}
		rng.Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
		r := NewReader(NewSeen())
		var payload []byte
		got := Report{}
		pn := uint64(0)
		for i, f := range frames {
			payload = append(append(payload, f...), 1, 0, 0)
			if len(payload) > 900 || i == len(frames)-1 {
				d := initial{dcid: id1, payload: payload, pad: minInitial, pn: pn, pnLen: 1 + int(pn%4)}.seal(t)
				if rep := r.Datagram(d); rep.Answer != Pass { // behind Complete: octets that came before
					got = rep
				}
				payload, pn = nil, pn+1
			}
		}
		if got.Answer != Complete || got.Hello.SNI != "api.allowed.test" {
			t.Fatalf("round %d: %+v", round, got)
		}
	}
}

// After its server's first answer the client uses the server's ID, and the old
// keys; this is also how the second hello comes after a HelloRetryRequest.
func TestServerChoosesID(t *testing.T) {
	for _, id := range [][]byte{id3, {}, {1}, bytes.Repeat([]byte{9}, maxID)} {
		r := NewReader(NewSeen())
		msg, again := forge("api.allowed.test", 100), forge("api.allowed.test", 120)
		want(t, r, datagram(t, id1, 0, msg), Complete)
		ack := append([]byte{frameAck}, 0, 0, 0, 0)
		want(t, r, initial{key: id1, dcid: id, pn: 1, payload: ack, pad: minInitial}.seal(t), Pass)
		want(t, r, initial{key: id1, dcid: id, pn: 2, payload: crypto(len(msg), again[:50])}.seal(t), NeedMore)
		want(t, r, []byte{fixedBit, 1}, Pass)
		got := want(t, r, initial{key: id1, dcid: id, pn: 3, payload: crypto(len(msg)+50, again[50:])}.seal(t), Complete)
		if got.First {
			t.Error("a second hello was given as the first")
		}
	}
}

// After Retry and Version Negotiation the client begins anew: another ID,
// another version, a token. RFC 9368: the other version with the same ID goes
// on with the stream.
func TestRestarts(t *testing.T) {
	msg := forge("api.allowed.test", 1500)
	r := NewReader(NewSeen())
	want(t, r, datagram(t, id1, 0, msg[:900]), NeedMore)
	want(t, r, datagram(t, id1, 900, msg[900:]), Complete)
	retry := func(at int, part []byte) []byte {
		return initial{dcid: id2, token: []byte("a token"), pn: 5 + uint64(at), payload: crypto(at, part), pad: minInitial}.seal(t)
	}
	want(t, r, retry(0, msg[:900]), NeedMore)
	want(t, r, retry(900, msg[900:]), Complete)

	other := forge("api.allowed.test", 700)
	want(t, r, initial{version: Version2, dcid: id3, payload: crypto(0, other), pad: minInitial}.seal(t), Pass)
	ack := []byte{frameAckECN, 1, 0, 0, 1, 4, 4, 4}
	want(t, r, initial{version: Version2, key: id2, dcid: []byte("new"), pn: 9, payload: ack}.seal(t), Pass)
	want(t, r, initial{version: Version2, dcid: id1, pn: 9, payload: crypto(900, msg[900:])}.seal(t), Pass)
}

func TestEarlyData(t *testing.T) {
	zero := initial{dcid: id1, kind: kindZeroRTT, payload: make([]byte, 300)}.seal(t)
	first := datagram(t, id1, 0, forge("api.allowed.test", 0))
	r := NewReader(NewSeen())
	want(t, r, zero, NeedMore)
	want(t, r, first, Complete)
	want(t, r, zero, Pass)
	r = NewReader(NewSeen())
	small := initial{dcid: id1, payload: crypto(0, forge("api.allowed.test", 0))}.seal(t)
	want(t, r, append(small, zero...), Complete)
	r = NewReader(NewSeen())
	want(t, r, append(zero[:len(zero):len(zero)], small...), Complete)
}

// Each frame that an Initial may carry, before and behind the hello.
func TestFrames(t *testing.T) {
	msg := forge("api.allowed.test", 0)
	for name, f := range map[string][]byte{
		"padding":      {framePadding, framePadding},
		"ping":         {framePing},
		"ack":          {frameAck, 9, 0, 1, 2, 3, 1}, // 9 to 7, then 2 and 1
		"ack ecn":      {frameAckECN, 0, 0, 0, 0, 1, 2, 3},
		"close":        {frameClose, 1, 6, 2, 'n', 'o'},
		"empty crypto": {frameCrypto, 0, 0},
	} {
		pay := bytes.Join([][]byte{f, crypto(0, msg), f}, nil)
		if got := NewReader(NewSeen()).Datagram(initial{dcid: id1, payload: pay, pad: minInitial}.seal(t)); got.Answer != Complete {
			t.Errorf("%s: %v %v", name, got.Answer, got.Err)
		}
	}
}

// Other protocols over UDP stay what they are.
func TestNotQUIC(t *testing.T) {
	for name, d := range map[string][]byte{
		"nothing":          nil,
		"one octet":        {0xff},
		"four octets":      {0xff, 0, 0, 0},
		"STUN":             {0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42},
		"DTLS":             {22, 0xfe, 0xfd, 0, 0, 0, 0},
		"game server":      append([]byte{0xff, 0xff, 0xff, 0xff}, "TSource Engine Query\x00"...),
		"RTP":              append([]byte{0x80, 0x60, 0x12, 0x34}, make([]byte, 1400)...),
		"DNS, high id":     append([]byte{0xbe, 0xef, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 'a', 0}, 0, 1, 0, 1),
		"zeros":            append([]byte{0x80}, make([]byte, 5)...),
		"version 0, short": {0xc0, 0, 0, 0, 0, 4, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewReader(NewSeen())
			want(t, r, d, NotQUIC)
			want(t, r, datagram(t, id1, 0, forge("a.test", 0)), Complete) // and QUIC is seen behind it
		})
	}
}

func TestUnknownVersions(t *testing.T) {
	for _, v := range []uint32{0x1a2a3a4a, 0xfafafafa, 0xff00001d, 'Q'<<24 | '0'<<16 | '5'<<8 | '0', 0xfaceb002, 0xabcd0001, 0x709a50c4, 2, 0x12345678} {
		d := binary.BigEndian.AppendUint32([]byte{0xc0}, v)
		d = append(append(d, 8), id1...)
		d = append(d, make([]byte, minInitial)...)
		r := NewReader(NewSeen())
		if got := want(t, r, d, UnknownVersion); got.Version != v {
			t.Errorf("version %#x reported as %#x", v, got.Version)
		}
		if deployed(v) {
			want(t, r, d[:40], UnknownVersion)
		}
		want(t, r, datagram(t, id1, 0, forge("a.test", 0)), Complete) // the client chose another one
		want(t, r, d, UnknownVersion)
	}
}

// The package starts nothing.
func TestNoGoroutines(t *testing.T) {
	msg := forge("a.test", 5000)
	before := runtime.NumGoroutine()
	for i := range 100 {
		r := NewReader(NewSeen())
		want(t, r, datagram(t, fmt.Appendf(nil, "%08d", i), 0, msg[:1000]), NeedMore)
	}
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines, %d before", after, before)
	}
}
