package quic

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
)

// Clients that lie: each of these must not leave, and ends its flow.

// TestK18Initials: other names on one 4-tuple, packets that only a server may
// send, and what servers could read in two ways.
func TestK18Initials(t *testing.T) {
	a, e := forge("api.allowed.test", 0), forge("evil.test", 0)
	first := datagram(t, id1, 0, a)
	for _, c := range []struct {
		name  string
		flow  [][]byte // what came before, each of which passes or is held
		d     []byte
		cause string
	}{
		{"another name, another connection", [][]byte{first}, datagram(t, id2, 0, e), errDiffers.Error()},
		{"another name, the same stream", [][]byte{first},
			initial{key: id1, dcid: id3, pn: 9, payload: crypto(len(a), e), pad: minInitial}.seal(t), errDiffers.Error()},
		{"another name behind in one packet", nil, datagram(t, id1, 0, append(bytes.Clone(a), e...)), errDiffers.Error()},
		{"another name, the other version", [][]byte{first},
			initial{version: Version2, dcid: id2, payload: crypto(0, e), pad: minInitial}.seal(t), errDiffers.Error()},
		{"the same place said twice", [][]byte{datagram(t, id1, 0, a[:60])}, datagram(t, id1, 40, e[40:]), errOverlap.Error()},
		{"coalesced, another connection", nil, append(bytes.Clone(first), datagram(t, id2, 0, e)...), "two connections"},
		{"coalesced, another version", nil,
			append(bytes.Clone(first), initial{version: Version2, dcid: id1, payload: crypto(0, e)}.seal(t)...), "two connections"},
		{"coalesced, a version nobody knows", nil, append(bytes.Clone(first), append([]byte{0xc0, 9, 9, 9, 9, 0, 0}, first...)...), "behind another one"},
		{"keys of another connection", nil, initial{key: id2, dcid: id1, payload: crypto(0, a), pad: minInitial}.seal(t), errUnreadable.Error()},
		{"opens with two keys", [][]byte{first}, twoKeys(t, id2, id1), errTwoKeys.Error()},
		{"a Retry", nil, append([]byte{0xf0, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0}, make([]byte, 40)...), "a Retry from the client"},
		{"a Version Negotiation", nil, []byte{0x80, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1}, "a Version Negotiation from the client"},
		{"a short first ID", nil, datagram(t, id1[:7], 0, a), "a connection ID of 7 octets"},
		{"a long ID", nil, datagram(t, make([]byte, maxID+1), 0, a), "a connection ID of 21 octets"},
		{"a number with two readings", [][]byte{initial{dcid: id1, pn: 1 << 20, payload: crypto(0, a)}.seal(t)},
			initial{dcid: id1, pn: 3, pnLen: 1, payload: []byte{framePing}, pad: 60}.seal(t), errNumber.Error()},
		{"a frame that no Initial has", nil, initial{dcid: id1, payload: append([]byte{0x08}, a...), pad: minInitial}.seal(t), "a frame of type 0x08"},
		{"no frame", nil, initial{dcid: id1, payload: []byte{}}.seal(t), ""},
		{"a ServerHello", nil, datagram(t, id1, 0, append([]byte{2}, a[1:]...)), "handshake message 2"},
		{"an ACK below zero", nil, initial{dcid: id1, payload: append([]byte{frameAck, 1, 0, 0, 2}, crypto(0, a)...), pad: minInitial}.seal(t), "a negative packet number"},
		{"cut short", nil, first[:len(first)-1], errShort.Error()},
		{"a name that is no name", nil, datagram(t, id1, 0, forge("evil\x00.test", 0)), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := NewReader(NewSeen())
			for _, d := range c.flow {
				if got := r.Datagram(d); got.Err != nil {
					t.Fatal(got.Err)
				}
			}
			wantErr(t, r, c.d, c.cause)
		})
	}
}

// Two flows can reach one server connection by its ID: the halves of two
// harmless hellos must not become a third one there.
func TestFlowsShareNoConnection(t *testing.T) {
	seen := NewSeen()
	a, b := forge("api.allowed.test", 10), forge("api.allowed.test", 20)
	want(t, NewReader(seen), datagram(t, id1, 0, a), Complete)
	want(t, NewReader(seen), datagram(t, id1, 0, a), Complete) // a client that moved to another port
	wantErr(t, NewReader(seen), datagram(t, id1, 0, b), errShared.Error())
	want(t, NewReader(seen), datagram(t, id2, 0, b), Complete)
}

func TestSeenIsBounded(t *testing.T) {
	s := NewSeen()
	for i := range MaxSeen + 10 {
		if !s.claim(binary.BigEndian.AppendUint32(nil, uint32(i)), 0, nil) {
			t.Fatal("a fresh place was taken")
		}
	}
	if len(s.digest) != MaxSeen || len(s.ring) != MaxSeen {
		t.Errorf("%d places, %d in the ring", len(s.digest), len(s.ring))
	}
	if !s.claim([]byte{0, 0, 0, 3}, 0, []byte("other")) {
		t.Error("the oldest was not forgotten")
	}
	if s.claim(binary.BigEndian.AppendUint32(nil, MaxSeen+9), 0, []byte("other")) {
		t.Error("the latest was forgotten")
	}
}

// Each limit of a flow.
func TestLimits(t *testing.T) {
	part := forge("a.test", 3000)[:100]
	t.Run("held datagrams", func(t *testing.T) {
		r := NewReader(NewSeen())
		small := initial{dcid: id1, payload: crypto(0, part)}.seal(t)
		for range MaxHeld {
			want(t, r, small, NeedMore)
		}
		wantErr(t, r, small, "no whole ClientHello")
	})
	t.Run("held octets", func(t *testing.T) {
		r := NewReader(NewSeen())
		big := initial{dcid: id1, payload: crypto(0, part), pad: 16000}.seal(t)
		for range MaxHeldOctets / len(big) {
			want(t, r, big, NeedMore)
		}
		wantErr(t, r, big, "no whole ClientHello")
	})
	t.Run("connections", func(t *testing.T) {
		r := NewReader(NewSeen())
		for i := range MaxConns {
			want(t, r, datagram(t, fmt.Appendf(nil, "%08d", i), 0, part), NeedMore)
		}
		wantErr(t, r, datagram(t, id1, 0, part), "connections")
	})
	t.Run("complete connections make room", func(t *testing.T) {
		r := NewReader(NewSeen())
		for i := range 10 * MaxConns {
			if got := r.Datagram(datagram(t, fmt.Appendf(nil, "%08d", i), 0, forge("a.test", i))); got.Err != nil {
				t.Fatal(got.Err)
			}
			if len(r.conns) > MaxConns {
				t.Fatalf("%d connections", len(r.conns))
			}
		}
	})
	t.Run("stream", func(t *testing.T) {
		wantErr(t, NewReader(NewSeen()), datagram(t, id1, MaxStream-3, part), errStreamLong.Error())
		wantErr(t, NewReader(NewSeen()), datagram(t, id1, 0, []byte{typeClientHello, 1, 0, 0}), errStreamLong.Error())
	})
	t.Run("buffered", func(t *testing.T) {
		r := NewReader(NewSeen())
		for i := range 2 {
			want(t, r, datagram(t, fmt.Appendf(nil, "%08d", i), MaxStream-100, part[:100]), NeedMore)
		}
		wantErr(t, r, datagram(t, id1, 0, part), "octets in one flow")
	})
}

// FuzzDatagrams: no sequence of datagrams panics, changes them, or lets a hello
// out that differs from the flow's first; after an error nothing passes.
func FuzzDatagrams(f *testing.F) {
	msg := forge("api.allowed.test", 40)
	f.Add(datagram(f, id1, 0, msg), datagram(f, id2, 0, forge("evil.test", 0)), []byte{fixedBit})
	f.Add(datagram(f, id1, 0, msg[:50]), datagram(f, id1, 50, msg[50:]), datagram(f, id1, 0, msg))
	f.Add(initial{version: Version2, dcid: id3, payload: crypto(0, msg)}.seal(f), []byte{0x80, 0, 0, 0, 0}, []byte{})
	f.Add(initial{dcid: id1, kind: kindZeroRTT, payload: msg}.seal(f), datagram(f, id1, 0, msg), []byte{0xc0, 9, 9, 9, 9, 0, 0})
	f.Fuzz(func(t *testing.T, a, b, c []byte) { play(t, a, b, c) })
}

// FuzzFrames is the same one layer further in: the fuzzer cannot seal.
func FuzzFrames(f *testing.F) {
	msg := forge("api.allowed.test", 40)
	f.Add(crypto(0, msg), crypto(0, msg), crypto(len(msg), forge("evil.test", 1)))
	f.Add(crypto(9, msg[9:]), crypto(0, msg[:10]), []byte{frameAck, 9, 0, 1, 2, 3, 1})
	f.Add([]byte{frameClose, 1, 6, 2, 'n', 'o'}, []byte{frameAckECN, 0, 0, 0, 0, 1, 2, 3}, []byte{frameCrypto, 0xff})
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		seal := func(pn uint64, frames []byte) []byte {
			return initial{dcid: id1, pn: pn, payload: frames, pad: 60}.seal(t)
		}
		if len(a)+len(b)+len(c) > 40000 {
			return
		}
		play(t, seal(0, a), seal(1, b), seal(2, c))
	})
}

func play(t *testing.T, datagrams ...[]byte) {
	r := NewReader(NewSeen())
	var first *Report
	dead := false
	for _, d := range datagrams {
		before := bytes.Clone(d)
		got := r.Datagram(d)
		if !bytes.Equal(before, d) {
			t.Fatal("the datagram was changed")
		}
		if dead && got.Answer != Malformed {
			t.Fatalf("%v behind an error", got.Answer)
		}
		dead = dead || got.Answer == Malformed
		if (got.Err != nil) != (got.Answer == Malformed || got.Answer == UnknownVersion) {
			t.Fatalf("%v with error %v", got.Answer, got.Err)
		}
		if got.Answer != Complete {
			continue
		}
		if got.First != (first == nil) || first != nil && !first.Hello.Same(got.Hello) {
			t.Fatalf("hello %+v after %+v", got, first)
		}
		first = &got
	}
}
