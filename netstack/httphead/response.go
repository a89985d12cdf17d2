package httphead

import (
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
	n, err = end(b)
	if err != nil {
		return nil, 0, err
	}
	start, fields, err := lines(b[:n])
	if err != nil {
		return nil, 0, err
	}
	r = &Response{Fields: fields}
	if err := r.startLine(start); err != nil {
		return nil, 0, err
	}
	r.named = list(fields, "Connection")
	r.Close = slices.Contains(r.named, "close") || r.Minor == 0 && !slices.Contains(r.named, "keep-alive")
	r.Body, err = framing(fields, r.Minor)
	if err != nil {
		return nil, 0, err
	}
	if method == "HEAD" || r.Status < 200 || r.Status == 204 || r.Status == 304 {
		r.Body = Body{}
	}
	if !r.Body.Chunked && r.Body.Length < 0 {
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
	if len(rest) < 3 || strings.Trim(rest[:3], "0123456789") != "" || rest[0] < '1' || rest[0] > '5' ||
		len(rest) > 3 && rest[3] != ' ' {
		return errors.New("malformed status line")
	}
	r.Status = int(rest[0]-'0')*100 + int(rest[1]-'0')*10 + int(rest[2]-'0')
	if len(rest) > 4 {
		r.Reason = rest[4:]
	}
	return nil
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
	b = r.appendFraming(b, body)
	return append(b, "\r\n"...)
}

// appendFraming keeps the length that a HEAD or 304 answer tells of a body
// that is not there.
func (r *Response) appendFraming(b []byte, body Body) []byte {
	v := values(r.Fields, "Content-Length")
	if body.None() && len(v) == 1 {
		return appendField(b, "Content-Length", v[0])
	}
	return body.append(b, false)
}
