package httphead

import (
	"errors"
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

// NormalPath normalises an absolute path once (RFC 3986 section 6.2.2):
// escapes of unreserved octets are undone, all others in upper case, octets
// that need one get it, empty and dot segments are removed. What servers read
// differently is refused: NUL, a backslash, overlong UTF-8, a dot segment with
// parameters, a broken escape.
func NormalPath(p string) (string, error) {
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

// checkQuery refuses what would end the request line or the target early. It
// is passed on as it is.
func checkQuery(q string) error {
	for i := range len(q) {
		if c := q[i]; c <= 0x20 || c == 0x7f || c == '#' {
			return errors.New("octet in the query that ends a target")
		}
	}
	return nil
}
