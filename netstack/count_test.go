package netstack

import (
	"fmt"
	"io"
	"net"
	"testing"

	"outcall/policy"
)

// The end line tells the octets that went each way, however they went.
func TestOctetsAreCounted(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowA))
	b.pins.pin("a.test", shared)
	body := make([]byte, 700_000)
	head := "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
	for i, w := range []struct{ first, answer string }{
		{rawWord, string(body)},
		{head, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 700000\r\n\r\n" + string(body)},
		{head, "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" +
			fmt.Sprintf("%x\r\n%s\r\n1\r\nx\r\n0\r\n\r\n", len(body), body)},
		{head, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + string(body)},
	} {
		dst := ap(shared, uint16(1000+i))
		srv := b.serve(func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1<<10))
			_, _ = io.WriteString(c, w.answer)
		}, dst)
		c := b.connect(dst)
		_, _ = io.WriteString(c, w.first)
		got, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		e := b.log.wait(t, "end", func(e policy.Event) bool { return e.Event == "end" && e.Port == dst.Port() })
		if e.BytesIn != int64(len(got)) || e.BytesOut != int64(len(srv.text())) {
			t.Errorf("case %d: %d in and %d out in the end line, %d and %d on the wire", i, e.BytesIn, e.BytesOut, len(got), len(srv.text()))
		}
	}
}
