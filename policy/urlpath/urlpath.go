// Package urlpath brings the path of an HTTP request into the one form that is
// judged and sent (Normal), and tells in which other ways a server may read
// that form (Readings). Servers differ in what they do with an escaped slash,
// with parameters behind ';', and with an escape of an escape; a request passes
// only if each of its readings does. The data path and explain both use it.
//
// What a server does beyond that, such as ignoring case or a dot at the end of
// a name, is its own.
package urlpath

import (
	"errors"
	"slices"
	"strings"
)

const upperHex = "0123456789ABCDEF"

func unhex(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

// pathByte is what a path has unescaped (RFC 3986 pchar and '/').
func pathByte(c byte) bool {
	return unreserved(c) || strings.IndexByte("!$&'()*+,;=:@/", c) >= 0
}

// Normal normalises an absolute path once (RFC 3986 section 6.2.2):
// escapes of unreserved octets are undone, all others in upper case, octets
// that need one get it, empty and dot segments are removed. What servers read
// differently is refused: NUL, a backslash, overlong UTF-8, a dot segment with
// parameters, a broken escape, and a path one of whose readings has one of these.
func Normal(p string) (string, error) {
	p, err := normal(p)
	if err != nil {
		return "", err
	}
	_, err = readings(p)
	return p, err
}

func normal(p string) (string, error) {
	if p == "" || p[0] != '/' {
		return "", errors.New("path does not begin with '/'")
	}
	p, err := escapes(p)
	if err != nil {
		return "", err
	}
	var out []string
	segs := strings.Split(p[1:], "/")
	for i, s := range segs {
		last := i == len(segs)-1
		name, _, params := strings.Cut(s, ";")
		if params && (name == "." || name == "..") {
			return "", errors.New("dot segment with parameters in the path")
		}
		switch s {
		case "", ".":
		case "..":
			if len(out) > 0 {
				out = out[:len(out)-1]
			}
		default:
			out = append(out, s)
			continue
		}
		if last { // "/a/", "/a/." and "/a/b/.." name a directory
			out = append(out, "")
		}
	}
	return "/" + strings.Join(out, "/"), nil
}

// escapes brings every octet of a path into its one form.
func escapes(p string) (string, error) {
	var b strings.Builder
	b.Grow(len(p))
	for i := 0; i < len(p); i++ {
		c, escaped := p[i], false
		if c == '%' {
			if i+2 >= len(p) {
				return "", errors.New("broken escape in the path")
			}
			hi, ok1 := unhex(p[i+1])
			lo, ok2 := unhex(p[i+2])
			if !ok1 || !ok2 {
				return "", errors.New("broken escape in the path")
			}
			c, escaped, i = hi<<4|lo, true, i+2
		}
		switch {
		case c < 0x20 || c == 0x7f:
			return "", errors.New("control octet in the path")
		case c == '\\':
			return "", errors.New("backslash in the path")
		case c == 0xc0 || c == 0xc1 || c >= 0xf5:
			return "", errors.New("octet in the path that no UTF-8 text has")
		case !escaped && (c == '#' || c == '?'):
			return "", errors.New("fragment in the path")
		case unreserved(c), !escaped && pathByte(c):
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&15])
		}
	}
	return b.String(), nil
}

// maxReadings bounds the readings of one path; no honest one has more than two.
const maxReadings = 8

// Readings returns the other paths that a server may see in a normal one.
func Readings(p string) []string {
	r, _ := readings(p) // Normal has found no error in it
	return r
}

func readings(p string) ([]string, error) {
	if !strings.ContainsAny(p, ";%") {
		return nil, nil
	}
	all := []string{p}
	for i := 0; i < len(all); i++ {
		for _, read := range []func(string) string{withoutParams, withSlashes, unescapedTwice} {
			r := read(all[i])
			if r == all[i] {
				continue
			}
			r, err := normal(r)
			if err != nil {
				return nil, err
			}
			if slices.Contains(all, r) {
				continue
			}
			if len(all) == maxReadings {
				return nil, errors.New("path that servers may read in too many ways")
			}
			all = append(all, r)
		}
	}
	return all[1:], nil
}

// withoutParams is how servlet containers read a path.
func withoutParams(p string) string {
	if !strings.Contains(p, ";") {
		return p
	}
	segs := strings.Split(p, "/")
	for i, s := range segs {
		segs[i], _, _ = strings.Cut(s, ";")
	}
	return strings.Join(segs, "/")
}

// withSlashes is how servers read a path that unescape it before they split it.
func withSlashes(p string) string { return strings.ReplaceAll(p, "%2F", "/") }

// unescapedTwice is how a server behind another one may read it.
func unescapedTwice(p string) string {
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(p, "%25")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		b.WriteByte('%')
		if len(after) < 2 || !isHex(after[0]) || !isHex(after[1]) {
			b.WriteString("25")
		}
		p = after
	}
}

func isHex(c byte) bool { _, ok := unhex(c); return ok }

// Query returns a query with the escapes of unreserved octets undone, as any
// server reads it.
func Query(q string) string {
	if !strings.Contains(q, "%") {
		return q
	}
	var b strings.Builder
	for i := 0; i < len(q); i++ {
		if q[i] == '%' && i+2 < len(q) && isHex(q[i+1]) && isHex(q[i+2]) {
			hi, _ := unhex(q[i+1])
			lo, _ := unhex(q[i+2])
			if c := hi<<4 | lo; unreserved(c) {
				b.WriteByte(c)
				i += 2
				continue
			}
		}
		b.WriteByte(q[i])
	}
	return b.String()
}
