package httphead

import (
	"bytes"
	"slices"
	"strings"
)

// A Kind is what the first bytes of a flow are.
type Kind uint8

// The kinds.
const (
	More  Kind = iota // they may still become HTTP: hold them
	HTTP              // a tolerant server would take them for HTTP
	Raw               // no server could take them for HTTP
	Doubt             // an octet that no request line has, in a line that has not ended: see Line
	Proxy             // a PROXY protocol header: it would hide the address behind it
)

// methods are the registered HTTP methods (IANA, 2025) and those that servers
// and caches know beside them. A first word outside this list can still be
// HTTP by the last word of its line.
var methods = []string{
	"ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "CONNECT", "COPY", "DELETE", "GET", "HEAD",
	"LABEL", "LINK", "LOCK", "M-SEARCH", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MKREDIRECTREF",
	"MKWORKSPACE", "MOVE", "NOTIFY", "OPTIONS", "ORDERPATCH", "PATCH", "POST", "PRI", "PROPFIND",
	"PROPPATCH", "PURGE", "PUT", "QUERY", "REBIND", "REPORT", "SEARCH", "SUBSCRIBE", "TRACE", "UNBIND",
	"UNCHECKOUT", "UNLINK", "UNLOCK", "UNSUBSCRIBE", "UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL",
}

// proxyV2 is the signature of the PROXY protocol's binary form.
var proxyV2 = []byte("\r\n\r\n\x00\r\nQUIT\n")

// Classify tells what the first bytes of a flow are. HTTP is, after skipping
// CR, LF, SP and TAB, a first line whose last word begins with HTTP/ in any
// case, or whose first word is a method in any case and whose second begins
// with '/', '*' or "http". end says that no more bytes will come.
func Classify(b []byte, end bool) Kind {
	if k, ok := proxyHeader(b); ok {
		return k
	}
	line := bytes.TrimLeft(b, "\r\n \t")
	if len(line) == 0 {
		return undecided(end)
	}
	i := bytes.IndexByte(line, '\n')
	whole := i >= 0 || end
	if i >= 0 {
		line = line[:i]
	}
	switch byWords(line) {
	case HTTP:
		return HTTP
	case More:
		if !whole {
			if odd(line) {
				return Doubt
			}
			return More
		}
	}
	if lastWordIsVersion(line) {
		return HTTP
	}
	return Raw
}

func undecided(end bool) Kind {
	if end {
		return Raw
	}
	return More
}

// proxyHeader knows the first bytes of a PROXY protocol header, version 1 or 2.
func proxyHeader(b []byte) (Kind, bool) {
	for _, sig := range [][]byte{proxyV2, []byte("PROXY TCP"), []byte("PROXY UNKNOWN")} {
		if bytes.HasPrefix(b, sig) {
			return Proxy, true
		}
	}
	return 0, false
}

// isSpace is every octet that some server splits a request line at: those of
// RFC 9112 section 3, and what Python's str.split takes in Latin-1 text.
func isSpace(c byte) bool {
	return c == ' ' || c >= '\t' && c <= '\r' || c >= 0x1c && c <= 0x1f || c == 0x85 || c == 0xa0
}

func words(line []byte) []string {
	var out []string
	start := -1
	for i, c := range line {
		switch {
		case isSpace(c) && start >= 0:
			out, start = append(out, string(line[start:i])), -1
		case !isSpace(c) && start < 0:
			start = i
		}
	}
	if start >= 0 {
		out = append(out, string(line[start:]))
	}
	return out
}

// byWords decides by the first two words of a line that may still grow.
func byWords(line []byte) Kind {
	w := words(line[:min(len(line), 4096)])
	if len(w) < 2 || !slices.Contains(methods, strings.ToUpper(w[0])) {
		return More
	}
	second := strings.ToLower(w[1])
	if second[0] == '/' || second[0] == '*' || strings.HasPrefix(second, "http") {
		return HTTP
	}
	return More
}

// lastWordIsVersion reports a line whose last word begins with HTTP/.
func lastWordIsVersion(line []byte) bool {
	end := len(line)
	for end > 0 && isSpace(line[end-1]) {
		end--
	}
	start := end
	for start > 0 && !isSpace(line[start-1]) {
		start--
	}
	w := line[start:end]
	return len(w) >= 5 && strings.EqualFold(string(w[:5]), "HTTP/")
}

// odd reports an octet that a request line of RFC 9112 cannot have: one that
// is no token character in the first word, or a control octet anywhere. A
// binary protocol shows one in its first packet, and most have no line end to
// wait for.
func odd(line []byte) bool {
	first := true
	for _, c := range line {
		switch {
		case c == ' ' || c >= '\t' && c <= '\r':
			first = false
		case c < 0x20 || c == 0x7f, first && !isToken(c):
			return true
		}
	}
	return false
}

// A Line looks on while a first line of Kind Doubt is relayed. What a tolerant
// server could still take for HTTP must not reach its line end: without it no
// server acts.
type Line struct {
	tail []byte // the last word so far, its first octets, and whether it goes on
	over bool
	seen int
	gap  bool
}

// HTTP takes the next bytes of the flow, the first call all from its start,
// and reports whether they end a line that is HTTP after all: then they must
// not be passed on. A bare CR counts as an end of the line, too.
func (l *Line) HTTP(b []byte) bool {
	if l.over {
		return false
	}
	if l.seen == 0 {
		b = bytes.TrimLeft(b, "\r\n \t")
	}
	for _, c := range b {
		l.seen++
		switch {
		case c == '\n' || c == '\r':
			if len(l.tail) >= 5 && strings.EqualFold(string(l.tail[:5]), "HTTP/") {
				return true
			}
			l.over = l.over || c == '\n'
			if l.over {
				return false
			}
			l.gap = true
		case isSpace(c):
			l.gap = true
		default:
			if l.gap {
				l.tail, l.gap = l.tail[:0], false
			}
			if len(l.tail) < 5 {
				l.tail = append(l.tail, c)
			}
		}
		if l.seen > MaxHead {
			l.over = true // longer than any server's request line
			return false
		}
	}
	return false
}
