package httphead

import "encoding/binary"

// The few parts of HTTP/2 (RFC 9113) that a refusal in it needs.
const (
	h2Settings = 4
	h2GoAway   = 7
	// h2UseHTTP1 is HTTP_1_1_REQUIRED.
	h2UseHTTP1 = 0xd
)

// RefuseHTTP2 is the answer to a preface that was sent with prior knowledge:
// the server's own preface, and a GOAWAY which tells that HTTP/1.1 is wanted and
// carries the words, where gRPC and others show them.
func RefuseHTTP2(words string) []byte {
	b := h2Frame(nil, h2Settings, nil)
	body := binary.BigEndian.AppendUint32(nil, 0) // no stream was looked at
	body = binary.BigEndian.AppendUint32(body, h2UseHTTP1)
	return h2Frame(b, h2GoAway, append(body, words...))
}

// h2Frame appends a frame of the connection itself.
func h2Frame(b []byte, typ byte, body []byte) []byte {
	n := len(body)
	b = append(b, byte(n>>16), byte(n>>8), byte(n), typ, 0, 0, 0, 0, 0)
	return append(b, body...)
}
