package publish

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// A Spec is one --publish.
type Spec struct {
	Host netip.AddrPort // where the host listens; port 0 picks one
	Port uint16         // inside
}

// loopback is where a host port listens if no address is given.
var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// Parse reads [IP:]HOSTPORT:PORT; an IPv6 address is bracketed.
func Parse(s string) (Spec, error) {
	bad := fmt.Errorf("--publish %q: want [IP:]HOSTPORT:PORT, such as 3000:3000 or [::1]:8080:80; HOSTPORT 0 picks a free one", s)
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return Spec{}, bad
	}
	inside, err := strconv.ParseUint(s[i+1:], 10, 16)
	if err != nil || inside == 0 || s[i+1] == '+' {
		return Spec{}, bad
	}
	host := s[:i]
	if !strings.Contains(host, ":") {
		host = loopback.String() + ":" + host
	}
	at, err := netip.ParseAddrPort(host)
	if err != nil || at.Addr().Zone() != "" {
		return Spec{}, bad
	}
	return Spec{Host: netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), Port: uint16(inside)}, nil
}
