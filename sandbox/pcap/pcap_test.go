package pcap

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
	"unicode"
)

var (
	tcpSYN = []byte("\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x08\x00" +
		"\x45\x00\x00\x28\x00\x00\x40\x00\x40\x06\x00\x00\x0a\xc8\x00\x02\x5d\xb8\xd8\x22" +
		"\xa8\xca\x01\xbb\x00\x00\x00\x07\x00\x00\x00\x00\x50\x02\xfa\xf0\x00\x00\x00\x00")
	dnsQuestion = []byte("\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x86\xdd" +
		"\x60\x00\x00\x00\x00\x21\x11\x40\xfd\x0c\x0a\x11\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\xfd\x0c\x0a\x11\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\xa8\xca\x00\x35\x00\x21\x00\x00" + "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02\x1b[\x04test\x00\x00\x1c\x00\x01")
)

func TestWrittenReadsBack(t *testing.T) {
	var b bytes.Buffer
	w, err := NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1700000000, 123456789)
	for _, f := range []Frame{{at, 54, tcpSYN}, {at, 9000, []byte{1}}, {at, 1 << 20, make([]byte, MaxFrame+1)}} {
		if err := w.Write(f); err != nil {
			t.Fatal(err)
		}
	}
	whole := b.Bytes()
	r, err := NewReader(bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []Frame{{at, 54, tcpSYN}, {at, 9000, []byte{1}}, {at, 1 << 20, make([]byte, MaxFrame)}} {
		f, err := r.Next()
		if err != nil || !f.Time.Equal(at) || f.Length != want.Length || !bytes.Equal(f.Data, want.Data) {
			t.Errorf("read %v %d %d bytes, %v", f.Time, f.Length, len(f.Data), err)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("after the last: %v", err)
	}
	r, _ = NewReader(bytes.NewReader(whole[:headerLen+recordLen+3]))
	if _, err := r.Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a file that is cut off: %v", err)
	}
	if _, err := NewReader(strings.NewReader("GIF89a..................")); err == nil {
		t.Error("another file was read")
	}
}

// The words are tcpdump's; what comes from inside is escaped (K20).
func TestSummary(t *testing.T) {
	for _, tt := range []struct {
		frame []byte
		want  string
	}{
		{tcpSYN, "IP 10.200.0.2.43210 > 93.184.216.34.443: Flags [S], seq 7, win 64240, length 0"},
		{dnsQuestion, `IP6 fd0c:a11::2.43210 > fd0c:a11::1.53: UDP, length 25, AAAA? \x1b[.test.`},
		{tcpSYN[:40], "IP 10.200.0.2 > 93.184.216.34: protocol 6 [cut short]"},
		{tcpSYN[:20], "IP [cut short]"},
		{nil, "Ethernet [cut short]"},
		{make([]byte, 60), "ethertype 0x0000, length 46"},
	} {
		if _, got, _ := strings.Cut(Summary(Frame{Data: tt.frame}), " "); got != tt.want {
			t.Errorf("%x:\n%s\nwant\n%s", tt.frame, got, tt.want)
		}
	}
}

func FuzzSummary(f *testing.F) {
	f.Add(tcpSYN)
	f.Add(dnsQuestion)
	f.Fuzz(func(t *testing.T, b []byte) {
		s := Summary(Frame{Data: b})
		if i := strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Fatalf("unprintable at %d of %q", i, s)
		}
	})
}
