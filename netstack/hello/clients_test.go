package hello

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// clients are what real programs sent to client.allowed.test: each file in
// testdata/clients is the records of one first ClientHello, as they came over
// the loopback interface.
var clients = map[string]Hello{
	"curl":                 {SNI: "client.allowed.test", ALPN: []string{"h2", "http/1.1"}, Version: "1.3"},
	"curl-http1.1":         {SNI: "client.allowed.test", ALPN: []string{"http/1.1"}, Version: "1.3"},
	"curl-tls12":           {SNI: "client.allowed.test", ALPN: []string{"h2", "http/1.1"}, Version: "1.2"},
	"git":                  {SNI: "client.allowed.test", ALPN: []string{"h2", "http/1.1"}, Version: "1.3"},
	"wget":                 {SNI: "client.allowed.test", Version: "1.3"},
	"openssl":              {SNI: "client.allowed.test", Version: "1.3"},
	"openssl-noservername": {Version: "1.3"},
	"go":                   {SNI: "client.allowed.test", ALPN: []string{"h2", "http/1.1"}, Version: "1.3"},
	"node-https":           {SNI: "client.allowed.test", Version: "1.3"},
	"node-fetch":           {SNI: "client.allowed.test", ALPN: []string{"http/1.1"}, Version: "1.3"},
	"java":                 {SNI: "client.allowed.test", ALPN: []string{"h2", "http/1.1"}, Version: "1.3"},
	"python":               {SNI: "client.allowed.test", ALPN: []string{"http/1.1"}, Version: "1.3"},
	"python-3.13":          {SNI: "client.allowed.test", ALPN: []string{"http/1.1"}, Version: "1.3"},
	"chromium":             {SNI: "client.allowed.test", ALPN: []string{"h2", "http/1.1"}, Version: "1.3", ECH: true}, // GREASE, and a post-quantum key share
}

// TestT6ClientsOfTheField: the hellos of real clients are read, whole and in
// any number of records; what they have in them that nobody knows is no error.
func TestT6ClientsOfTheField(t *testing.T) {
	files, err := filepath.Glob("testdata/clients/*.bin")
	if err != nil || len(files) != len(clients) {
		t.Fatalf("%d files for %d clients, %v", len(files), len(clients), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".bin")
		want, known := clients[name]
		wire, err := os.ReadFile(file)
		if err != nil || !known {
			t.Fatalf("%s: %v, known: %v", file, err, known)
		}
		if yes, _ := IsTLS(wire[:1]); !yes {
			t.Errorf("%s: not taken for TLS", name)
		}
		for _, cut := range [][]byte{wire, resplit(wire, 1), resplit(wire, 500), append(bytes.Clone(wire), 0x14, 3, 3, 0, 1, 1)} {
			h, n, err := Parse(cut)
			if err != nil || h.SNI != want.SNI || h.ECH != want.ECH || h.Version != want.Version || !slices.Equal(h.ALPN, want.ALPN) {
				t.Errorf("%s: %+v, %v; want %+v", name, h, err, want)
			}
			if n < len(wire) || n > len(cut) {
				t.Errorf("%s: %d octets of %d", name, n, len(cut))
			}
		}
		for i := range len(wire) {
			if _, _, err := Parse(wire[:i]); err != ErrShort {
				t.Fatalf("%s: %d octets: %v", name, i, err)
			}
		}
	}
}
