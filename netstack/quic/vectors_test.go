package quic

import (
	"bytes"
	"encoding/hex"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The client's side of RFC 9001 and RFC 9369, appendix A. The packets have 1200
// octets: beginning and end are compared, and the end is the tag, which no
// other octet between them gives.
var vectors = []struct {
	name, key, iv, hp, header, begin, end string
	version                               uint32
}{
	{
		name: "RFC 9001", version: Version1,
		key:    "1f369613dd76d5467730efcbe3b1a22d",
		iv:     "fa044b2f42a3fd3b46fb255c",
		hp:     "9f50449e04a0e810283a1e9933adedd2",
		header: "c300000001088394c8f03e5157080000449e",
		begin:  "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11d242b123dc9bd8bab936b47d92ec356c",
		end:    "7e78bfe706ca4cf5e9c5453e9f7cfd2b8b4c8d169a44e55c88d4a9a7f9474241e221af44860018ab0856972e194cd934",
	},
	{
		name: "RFC 9369", version: Version2,
		key:    "8b1a0bc121284290a29e0971b5cd045d",
		iv:     "91f73e2351d8fa91660e909f",
		hp:     "45b95e15235d6f45a6b19cbcb0294ba9",
		header: "d36b3343cf088394c8f03e5157080000449e",
		begin:  "d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485dd04de806071bf03dceebfa162e75d6c",
		end:    "6f4c4938ae79324dc402894b44faf8afbab35282ab659d13c93f70412e85cb199a37ddec600545473cfb5a05e08d0b209973b2172b4d21fb69745a262ccde96ba18b2faa745b6fe189cf772a9f84cbfc",
	},
}

// vectorFrame is the CRYPTO frame of both.
const vectorFrame = "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e868" +
	"04fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578" +
	"616d706c652e636f6dff01000100000a00080006001d00170018001000070005" +
	"04616c706e000500050100000000003300260024001d00209370b2c9caa47fba" +
	"baf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b000302030400" +
	"0d0010000e0403050306030203080408050806002d00020101001c0002400100" +
	"3900320408ffffffffffffffff05048000ffff07048000ffff08011001048000" +
	"75300901100f088394c8f03e51570806048000ffff"

func vectorPacket(t testing.TB, version uint32) []byte {
	return initial{version: version, dcid: id1, pn: 2, payload: unhex(t, vectorFrame), pad: 1200}.seal(t)
}

func TestVectors(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			k, err := deriveKeys(v.version, id1)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(k.iv, unhex(t, v.iv)) {
				t.Errorf("iv %x, want %s", k.iv, v.iv)
			}
			checkSecrets(t, v.version, v.key, v.hp)
			p := initial{version: v.version, dcid: id1, pnLen: 4}
			if got := p.head(1182); hex.EncodeToString(got) != v.header {
				t.Errorf("header %x, want %s", got, v.header)
			}
			pkt := vectorPacket(t, v.version)
			if len(pkt) != 1200 || !bytes.HasPrefix(pkt, unhex(t, v.begin)) || !bytes.HasSuffix(pkt, unhex(t, v.end)) {
				t.Fatalf("another packet than the RFC's: %x", pkt)
			}
			got := want(t, NewReader(NewSeen()), pkt, Complete)
			if !got.First || got.Version != v.version || got.Hello.SNI != "example.com" || got.Hello.Version != "1.3" ||
				len(got.Hello.ALPN) != 1 || got.Hello.ALPN[0] != "alpn" || got.Hello.ECH {
				t.Errorf("read %+v", got)
			}
		})
	}
}

// checkSecrets compares the two keys that cipher.Block and cipher.AEAD hide.
func checkSecrets(t *testing.T, version uint32, key, hp string) {
	t.Helper()
	gotKey, gotHP := rawKeys(t, version, id1)
	if hex.EncodeToString(gotKey) != key || hex.EncodeToString(gotHP) != hp {
		t.Errorf("keys %x %x, want %s %s", gotKey, gotHP, key, hp)
	}
}

// The examples of RFC 9000 appendix A.1 and A.3.
func TestVectorsOfNumbers(t *testing.T) {
	for _, v := range []struct {
		in   string
		want uint64
	}{
		{"c2197c5eff14e88c", 151288809941952652}, {"9d7f3e7d", 494878333}, {"7bbd", 15293}, {"25", 37}, {"4025", 37},
	} {
		c := cursor{b: unhex(t, v.in)}
		if got := c.varint(); got != v.want || c.err != nil || c.at != len(c.b) {
			t.Errorf("varint %s = %d, %v", v.in, got, c.err)
		}
	}
	if got := decode(0x9b32, 1<<16, 0xa82f30ea+1); got != 0xa82f9b32 {
		t.Errorf("packet number %#x", got)
	}
	if got := decode(250, 256, 256); got != 250 {
		t.Errorf("packet number %d", got)
	}
}
