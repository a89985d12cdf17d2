package ask

import (
	"bytes"
	"strings"
	"testing"
)

func TestReadResponse(t *testing.T) {
	for _, tt := range []struct {
		raw    string
		status int
		body   string
		bad    bool
	}{
		{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}extra", 200, "{}", false},
		{"HTTP/1.0 200\n\n{}", 200, "{}", false},
		{"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n1\r\nd\r\n0\r\n\r\n", 404, "abcd", false},
		{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 200, "{}", false},
		{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", 0, "", true},
		{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0, "", true},
		{"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}", 0, "", true},
		{"HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n{}", 0, "", true},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", 0, "", true},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10001\r\n", 0, "", true},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", 0, "", true},
		{"HTTP/1.1 200 OK\r\n no colon\r\n\r\n", 0, "", true},
		{"HTTP/1.1 99 x\r\n\r\n", 0, "", true},
		{"HTTP/1.1 2000 x\r\n\r\n", 0, "", true},
		{"HTTP/2 200\r\n\r\n", 0, "", true},
	} {
		res, err := readResponse(strings.NewReader(tt.raw))
		if tt.bad {
			if err == nil {
				t.Errorf("%q was taken: %d %q", tt.raw, res.status, res.body)
			}
			continue
		}
		if err != nil || res.status != tt.status || string(res.body) != tt.body {
			t.Errorf("%q: %d %q %v, want %d %q", tt.raw, res.status, res.body, err, tt.status, tt.body)
		}
	}
}

func FuzzReadResponse(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		res, err := readResponse(bytes.NewReader(data))
		if err == nil && (res.status < 200 || res.status > 599 || len(res.body) > maxBody) {
			t.Fatalf("status %d, %d bytes", res.status, len(res.body))
		}
	})
}
