package hello

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Extension numbers of the IANA registry that are read here.
const (
	extServerName        = 0
	extALPN              = 16
	extSupportedVersions = 43
	extECH               = 0xfe0d
	extESNI              = 0xffce // the drafts before ECH
)

// A cursor reads a TLS presentation-language structure; bad stays set after
// the first short read, so that a chain of reads is checked once.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if c.bad || n > len(c.b) {
		c.bad = true
		return nil
	}
	v := c.b[:n]
	c.b = c.b[n:]
	return v
}

func (c *cursor) u8() int {
	v := c.take(1)
	if c.bad {
		return 0
	}
	return int(v[0])
}

func (c *cursor) u16() int {
	v := c.take(2)
	if c.bad {
		return 0
	}
	return int(v[0])<<8 | int(v[1])
}

func (c *cursor) vec8() cursor  { v := c.take(c.u8()); return cursor{b: v, bad: c.bad} }
func (c *cursor) vec16() cursor { v := c.take(c.u16()); return cursor{b: v, bad: c.bad} }

// done reports a structure that was read exactly to its end.
func (c *cursor) done() bool { return !c.bad && len(c.b) == 0 }

// parseClientHello reads the body of the message (RFC 8446 section 4.1.2).
func parseClientHello(b []byte) (Hello, error) {
	c := cursor{b: b}
	legacy := c.u16()
	c.take(32) // random
	session := c.vec8()
	suites := c.vec16()
	compression := c.vec8()
	switch {
	case c.bad:
		return Hello{}, errors.New("ClientHello cut short")
	case len(session.b) > 32, len(suites.b) < 2, len(suites.b)%2 != 0, len(compression.b) < 1:
		return Hello{}, errors.New("malformed ClientHello")
	}
	h := Hello{Version: versionName(min(legacy, 0x0303))}
	if len(c.b) == 0 {
		return h, nil // TLS 1.0 without extensions
	}
	exts := c.vec16()
	if !c.done() {
		return Hello{}, errors.New("malformed ClientHello extensions")
	}
	return h, h.extensions(exts)
}

// extensions reads each extension once: RFC 8446 section 4.2 forbids a second
// one of a type, and servers differ in which they would take.
func (h *Hello) extensions(c cursor) error {
	var seen [1 << 16 / 64]uint64
	for len(c.b) > 0 {
		typ := c.u16()
		body := c.vec16()
		if c.bad {
			return errors.New("malformed ClientHello extension")
		}
		if seen[typ/64]&(1<<(typ%64)) != 0 {
			return fmt.Errorf("ClientHello extension %d twice", typ)
		}
		seen[typ/64] |= 1 << (typ % 64)
		if err := h.extension(typ, body); err != nil {
			return err
		}
	}
	return nil
}

func (h *Hello) extension(typ int, body cursor) (err error) {
	switch typ {
	case extServerName:
		h.SNI, err = serverName(body)
	case extALPN:
		h.ALPN, err = alpn(body)
	case extSupportedVersions:
		h.Version, err = versions(body)
	case extECH, extESNI:
		h.ECH = true
	}
	return err
}

// serverName reads the one host_name (RFC 6066 section 3).
func serverName(c cursor) (string, error) {
	list := c.vec16()
	if !c.done() || len(list.b) == 0 {
		return "", errors.New("malformed server_name")
	}
	typ := list.u8()
	name := list.vec16()
	if typ != 0 || list.bad {
		return "", errors.New("malformed server_name")
	}
	if len(list.b) != 0 {
		return "", errors.New("more than one server_name")
	}
	return CanonicalName(string(name.b))
}

// maxName is the longest name in the text form, without the trailing dot.
const maxName = 253

// CanonicalName returns a host name in lower case without its trailing dot. It
// refuses what is no name: empty or long labels, literal addresses, and every
// byte outside letters, digits, '-', '_' and '.'. IDNs come in punycode.
func CanonicalName(s string) (string, error) {
	s = strings.TrimSuffix(s, ".")
	if s == "" {
		return "", errors.New("empty host name")
	}
	if len(s) > maxName {
		return "", fmt.Errorf("host name of %d octets", len(s))
	}
	s = strings.ToLower(s)
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return "", errors.New("host name with an empty or overlong label")
		}
		for i := range len(label) {
			if !nameByte(label[i]) {
				return "", fmt.Errorf("host name with the octet %#02x", label[i])
			}
		}
	}
	if last := s[strings.LastIndexByte(s, '.')+1:]; numeric(last) {
		return "", errors.New("host name that is a number or an address")
	}
	return s, nil
}

func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// numeric reports a last label that resolvers and inet_aton read as a number
// (WHATWG URL, "ends in a number"): no top-level domain looks so.
func numeric(label string) bool {
	if _, err := netip.ParseAddr(label); err == nil {
		return true
	}
	if rest, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(rest, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

func alpn(c cursor) ([]string, error) {
	list := c.vec16()
	if !c.done() || len(list.b) == 0 {
		return nil, errors.New("malformed ALPN")
	}
	var out []string
	for len(list.b) > 0 {
		p := list.vec8()
		if list.bad || len(p.b) == 0 {
			return nil, errors.New("malformed ALPN")
		}
		out = append(out, string(p.b))
	}
	return out, nil
}

// versions returns the highest of supported_versions (RFC 8446 section 4.2.1);
// GREASE values (RFC 8701) and unknown ones are passed over.
func versions(c cursor) (string, error) {
	list := c.vec8()
	if !c.done() || len(list.b) == 0 || len(list.b)%2 != 0 {
		return "", errors.New("malformed supported_versions")
	}
	best := 0
	for len(list.b) > 0 {
		if v := list.u16(); versionName(v) != "" {
			best = max(best, v)
		}
	}
	return versionName(best), nil
}

func versionName(v int) string {
	switch v {
	case 0x0301:
		return "1.0"
	case 0x0302:
		return "1.1"
	case 0x0303:
		return "1.2"
	case 0x0304:
		return "1.3"
	}
	return ""
}
