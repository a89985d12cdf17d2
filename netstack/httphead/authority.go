package httphead

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"outcall/netstack/hello"
)

// An Authority is a host and a port: of a CONNECT, of an absolute target, of
// Host.
type Authority struct {
	Host string     // canonical: a lower-case name, or Addr's text
	Addr netip.Addr // valid where Host is a literal address, without zone, v4-mapped unmapped
	Port uint16     // 0 where none was given
}

// IsAddr reports a literal address.
func (a Authority) IsAddr() bool { return a.Addr.IsValid() }

// ParseAuthority reads host[:port] in its one canonical reading: a name of
// letters, digits, '-' and '_'; a dotted quad; or a bracketed IPv6 address
// without zone. Everything that inet_aton, a URL parser or a resolver might
// read as an address in another notation is refused, as are user information
// and ports outside 1-65535.
func ParseAuthority(s string) (Authority, error) {
	host, port := s, ""
	if strings.HasPrefix(s, "[") {
		i := strings.IndexByte(s, ']')
		if i < 0 {
			return Authority{}, errors.New("unclosed bracket in the authority")
		}
		host, port = s[1:i], s[i+1:]
		if port != "" && port[0] != ':' {
			return Authority{}, errors.New("malformed authority")
		}
		return literal(host, port)
	}
	if i := strings.IndexByte(s, ':'); i >= 0 {
		host, port = s[:i], s[i:]
	}
	if addr, err := netip.ParseAddr(host); err == nil && addr.Is4() {
		p, err := parsePort(port)
		return Authority{Host: addr.String(), Addr: addr, Port: p}, err
	}
	name, err := hello.CanonicalName(host)
	if err != nil {
		return Authority{}, err
	}
	p, err := parsePort(port)
	return Authority{Host: name, Port: p}, err
}

func literal(host, port string) (Authority, error) {
	addr, err := netip.ParseAddr(host)
	if err != nil || !addr.Is6() || addr.Zone() != "" {
		return Authority{}, errors.New("no IPv6 address without zone in the brackets")
	}
	addr = addr.Unmap()
	p, err := parsePort(port)
	return Authority{Host: addr.String(), Addr: addr, Port: p}, err
}

// parsePort reads ":port"; "" is 0.
func parsePort(s string) (uint16, error) {
	if s == "" {
		return 0, nil
	}
	s = s[1:]
	if s == "" || len(s) > 5 || strings.Trim(s, "0123456789") != "" {
		return 0, errors.New("malformed port")
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, errors.New("port outside 1-65535")
	}
	return uint16(n), nil
}

// String is the text of a Host field for this authority.
func (a Authority) String() string {
	h := a.Host
	if a.Addr.Is6() {
		h = "[" + h + "]"
	}
	if a.Port != 0 {
		h += ":" + strconv.Itoa(int(a.Port))
	}
	return h
}
