package httphead

import (
	"bytes"
	"errors"
	"slices"
	"strings"
)

// A Response is one response's head. It comes from a server that was allowed,
// so it is read with less suspicion; what would lose the boundary to the next
// response ends the connection instead.
type Response struct {
	Status int
	Reason string
	Minor  int
	Fields []Field
	Body   Body
	// Close is set where the server will take no further request, and where
	// its framing leaves any doubt.
	Close bool

	named []string
}

// ParseResponse reads the head at the start of b, the answer to a request of
// the given method.
func ParseResponse(b []byte, method string) (r *Response, n int, err error) {
	head, n, err := crlf(b)
	if err != nil {
		return nil, 0, err
	}
	start, fields, err := lines(head)
	if err != nil {
		return nil, 0, err
	}
	r = &Response{Fields: fields}
	if err := r.startLine(start); err != nil {
		return nil, 0, err
	}
	r.named = list(fields, "Connection")
	r.Close = slices.Contains(r.named, "close") || r.Minor == 0 && !slices.Contains(r.named, "keep-alive")
	r.Body, err = framing(values(fields, "Transfer-Encoding"), sameLength(fields), r.Minor)
	if err != nil {
		return nil, 0, err
	}
	if method == "HEAD" || r.Status < 200 || r.Status == 204 || r.Status == 304 {
		r.Body = Body{}
	}
	if !r.Body.Chunked && r.Body.Length < 0 || r.Status == 204 && frames(fields) {
		r.Close = true
	}
	return r, n, nil
}

func (r *Response) startLine(s string) error {
	version, rest, ok := strings.Cut(s, " ")
	switch {
	case !ok:
		return errors.New("malformed status line")
	case version == "HTTP/1.1":
		r.Minor = 1
	case version != "HTTP/1.0":
		return errors.New("unknown protocol version in the status line")
	}
	if len(rest) < 3 || strings.Trim(rest[:3], "0123456789") != "" || rest[0] < '1' ||
		len(rest) > 3 && rest[3] != ' ' {
		return errors.New("malformed status line")
	}
	r.Status = int(rest[0]-'0')*100 + int(rest[1]-'0')*10 + int(rest[2]-'0')
	if len(rest) > 4 {
		r.Reason = rest[4:]
	}
	return nil
}

// crlf finds the head at the start of b, and gives each line of it the one end
// that lines reads: what is written anew may have ended in a bare LF, as servers
// do that nobody mends any more.
func crlf(b []byte) (head []byte, n int, err error) {
	n, err = end(b)
	switch {
	case err == nil && !bareLF(b[:n]):
		return b[:n], n, nil
	case err == ErrTooLong, err == ErrShort && !bareLF(b):
		return nil, 0, err
	}
	for at := 0; ; {
		i := bytes.IndexByte(b[at:], '\n')
		if i < 0 {
			if len(b) >= MaxHead {
				return nil, 0, ErrTooLong
			}
			return nil, 0, ErrShort
		}
		line := bytes.TrimSuffix(b[at:at+i], []byte("\r"))
		head = append(append(head, line...), "\r\n"...)
		at += i + 1
		switch {
		case at > MaxHead:
			return nil, 0, ErrTooLong
		case len(line) == 0 && len(head) < 4:
			return nil, 0, errors.New("malformed status line")
		case len(line) == 0:
			return head, at, nil
		}
	}
}

// frames reports that the head promises a body: where there can be none, it may
// still come.
func frames(fields []Field) bool {
	cl := sameLength(fields)
	return len(values(fields, "Transfer-Encoding")) > 0 || len(cl) > 0 && cl[0] != "0"
}

// bareLF reports a line end without CR.
func bareLF(b []byte) bool {
	return bytes.Count(b, []byte("\n")) != bytes.Count(b, []byte("\r\n"))
}

// sameLength returns the values of Content-Length, equal ones once: a length
// that is told twice leaves no doubt (RFC 9110 section 8.6).
func sameLength(fields []Field) []string {
	var out []string
	for _, v := range values(fields, "Content-Length") {
		for m := range strings.SplitSeq(v, ",") {
			if m = strings.Trim(m, " \t"); !slices.Contains(out, m) {
				out = append(out, m)
			}
		}
	}
	return out
}

// Switching reports a 101 answer to an upgrade to WebSocket.
func (r *Response) Switching() bool {
	return r.Status == 101 && slices.Equal(list(r.Fields, "Upgrade"), []string{"websocket"})
}

// Append appends the head as it goes to the client. body is how the client
// will get it framed; closing adds Connection: close.
func (r *Response) Append(b []byte, body Body, closing bool) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = append(b, byte('0'+r.Status/100), byte('0'+r.Status/10%10), byte('0'+r.Status%10), ' ')
	b = append(append(b, r.Reason...), "\r\n"...)
	for _, f := range endToEnd(r.Fields, r.named) {
		b = appendField(b, f.Name, f.Value)
	}
	switch {
	case r.Status == 101:
		b = appendField(appendField(b, "Connection", "Upgrade"), "Upgrade", "websocket")
	case r.Status >= 200 && closing:
		b = appendField(b, "Connection", "close")
	}
	if t := list(r.Fields, "Trailer"); body.Chunked && len(t) > 0 {
		b = appendField(b, "Trailer", strings.Join(t, ", "))
	}
	b = r.appendFraming(b, body)
	return append(b, "\r\n"...)
}

// appendFraming keeps the length that a HEAD or 304 answer tells of a body
// that is not there.
func (r *Response) appendFraming(b []byte, body Body) []byte {
	v := sameLength(r.Fields)
	if body.None() && len(v) == 1 && r.Status >= 200 && r.Status != 204 {
		return appendField(b, "Content-Length", v[0])
	}
	return body.append(b, false)
}
