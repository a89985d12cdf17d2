// Package httphead reads and writes the heads of HTTP/1.x messages (RFC 9112)
// for a proxy that judges them. It tells first what a flow's first bytes are
// (Classify), then reads a request's head in the one way that no server reads
// differently, and refuses every other:
//
//	request line   METHOD SP target SP HTTP/1.0|1.1 CRLF, method in upper case
//	fields         token ':' value CRLF; no folding, no bare CR or LF, no
//	               control octet, no space before the colon
//	Host           exactly one, a name or literal address, and agreeing with
//	               the target where that has an authority
//	framing        no body, one Content-Length, or chunked; never two of them
//	path           normalised once; what is judged is what is sent
//
// Bodies are framed by Body and Chunked. The package keeps no connection, no
// buffer and no clock.
package httphead

import "errors"

// Limits. A head beyond MaxHead or MaxFields is refused.
const (
	// MaxHead is the longest head in octets, line ends included.
	MaxHead = 64 << 10
	// MaxFields is the largest number of field lines.
	MaxFields = 256
	// maxMethod bounds the method token; the longest registered one has 17.
	maxMethod = 32
)

// Errors that callers tell apart; every other one means a malformed head.
var (
	// ErrShort means that the head is not complete yet.
	ErrShort = errors.New("incomplete HTTP head")
	// ErrTooLong means that it is longer than MaxHead.
	ErrTooLong = errors.New("HTTP head longer than 64 KiB")
	// ErrHTTP2 means an HTTP/2 preface with prior knowledge.
	ErrHTTP2 = errors.New("HTTP/2 without TLS cannot be judged: use HTTP/1.1, or TLS")
)
