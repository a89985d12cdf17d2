package netstack

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A request line longer than one read of the first flight reaches the origin whole.
func TestLongRequestLine(t *testing.T) {
	b, srv, dst := webBed(t, rule("a", "allow", allowA))
	c := b.connect(dst)
	line := "GET /" + strings.Repeat("long", 1500) + " HTTP/1.1\r\nHost: a.test\r\n"
	for _, part := range []string{line[:4100], line[4100:5000], line[5000:], "Connection: close\r\n\r\n"} {
		if _, err := io.WriteString(c, part); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond) // each part is a segment of its own
	}
	got, err := io.ReadAll(c)
	if err != nil || !bytes.HasPrefix(got, []byte("HTTP/1.1 200")) || !strings.Contains(srv.text(), line[:6005]) {
		t.Errorf("%v: %.80q, and the server got %d octets", err, got, len(srv.text()))
	}
}

// streamed is a way through the netstack that is measured and must lose nothing.
type streamed struct {
	name   string
	server func(c net.Conn, body []byte, n int) // sends n bodies, or takes them
	client func(c net.Conn, body []byte, n int) error
}

func discardAll(r io.Reader, want int) error {
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, make([]byte, 256<<10))
	if err == nil && n < int64(want) {
		err = fmt.Errorf("%d of %d octets arrived", n, want)
	}
	return err
}

// repeat writes the body n times, with what goes before and behind each.
func repeat(c io.Writer, body []byte, n int, before, behind string) error {
	for range n {
		if _, err := (&net.Buffers{[]byte(before), body, []byte(behind)}).WriteTo(c); err != nil {
			return err
		}
	}
	return nil
}

var streams = []streamed{
	{"raw/down", func(c net.Conn, body []byte, n int) {
		_, _ = c.Read(make([]byte, 16))
		_ = repeat(c, body, n, "", "")
	}, func(c net.Conn, body []byte, n int) error {
		if _, err := io.WriteString(c, rawWord); err != nil {
			return err
		}
		return discardAll(c, n*len(body))
	}},
	{"raw/up", func(c net.Conn, body []byte, n int) { _ = discardAll(c, n*len(body)) },
		func(c net.Conn, body []byte, n int) error {
			if err := repeat(c, body, n, "", ""); err != nil {
				return err
			}
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
			return discardAll(c, 0)
		}},
	{"chunked/down", func(c net.Conn, body []byte, n int) {
		_, _ = c.Read(make([]byte, 1<<10))
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		_ = repeat(c, body, n, fmt.Sprintf("%x\r\n", len(body)), "\r\n")
		_, _ = io.WriteString(c, "0\r\n\r\n")
	}, func(c net.Conn, body []byte, n int) error {
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"); err != nil {
			return err
		}
		return discardAll(c, n*len(body))
	}},
	{"chunked/up", func(c net.Conn, body []byte, n int) {
		_, _ = io.CopyN(io.Discard, c, int64(n*len(body)))
		answerNothing(c)
	},
		func(c net.Conn, body []byte, n int) error {
			_, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
			if err == nil {
				err = repeat(c, body, n, fmt.Sprintf("%x\r\n", len(body)), "\r\n")
			}
			if err == nil {
				_, err = io.WriteString(c, "0\r\n\r\n")
			}
			if err != nil {
				return err
			}
			return discardAll(c, 0)
		}},
}

func answerNothing(c net.Conn) {
	go io.Copy(io.Discard, c)
	_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
}

// BenchmarkStream moves 64 KiB pieces through a netstack, whose agent is another
// one in this process: what it costs is less to be compared with other programs
// (integration/bench does that) than with itself.
func BenchmarkStream(b *testing.B) {
	for i, s := range streams {
		b.Run(s.name, func(b *testing.B) {
			bed := newBed(b, rule("a", "allow", allowA))
			bed.pins.pin("a.test", shared)
			body := bytes.Repeat([]byte("raw\n"), 16<<10)
			dst := ap(shared, uint16(1000+i))
			bed.serve(func(c net.Conn) { s.server(c.(*tapped).Conn, body, b.N) }, dst)
			c := bed.connect(dst)
			_ = c.SetDeadline(time.Now().Add(10 * time.Minute))
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			b.ResetTimer()
			if err := s.client(c, body, b.N); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// A client that reads slowly loses nothing of what the server sent at once.
func TestSlowReaderLosesNothing(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowA))
	b.pins.pin("a.test", shared)
	data := make([]byte, 6*fullBuffer)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	for port, framing := range map[uint16]string{9: "", 80: "Content-Length: " + fmt.Sprint(len(data)), 8080: "Transfer-Encoding: chunked"} {
		dst := ap(shared, port)
		b.serve(func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1<<10))
			if framing != "" {
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n"+framing+"\r\n\r\n")
			}
			for rest := data; len(rest) > 0; {
				n := min(len(rest), 1+len(rest)/3)
				if port == 8080 {
					fmt.Fprintf(c, "%x\r\n", n)
				}
				_, _ = c.Write(rest[:n])
				if rest = rest[n:]; port == 8080 {
					_, _ = io.WriteString(c, "\r\n")
				}
			}
			if port == 8080 {
				_, _ = io.WriteString(c, "0\r\n\r\n")
			}
		}, dst)
		c := b.connect(dst)
		first := "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"
		if framing == "" {
			first = rawWord
		}
		_, _ = io.WriteString(c, first)
		var body io.Reader = &slowly{r: c}
		if framing != "" {
			resp, err := http.ReadResponse(bufio.NewReader(body), nil)
			if err != nil {
				t.Fatal(err)
			}
			body = resp.Body
		}
		h := sha256.New()
		n, err := io.Copy(h, body)
		if err != nil || n != int64(len(data)) || [32]byte(h.Sum(nil)) != sha256.Sum256(data) {
			t.Errorf("%q: %d of %d octets, %v, or others", framing, n, len(data), err)
		}
	}
}

// slowly reads with rests, so that what comes piles up on the way.
type slowly struct {
	r io.Reader
	n int
}

func (s *slowly) Read(b []byte) (int, error) {
	if s.n++; s.n < 40 {
		time.Sleep(2 * time.Millisecond)
	}
	return s.r.Read(b[:min(len(b), 96<<10)])
}
