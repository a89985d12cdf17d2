package policy

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"outcall/policy/urlpath"
)

// A target is a parsed Target of an ExplainQuery.
type target struct {
	scheme string // https, http, tcp, udp, icmp, dns
	host   string // canonical name, or the text of addr
	addr   netip.Addr
	port   uint16
	path   string
	query  string
	typ    string // of a DNS question
}

// name returns the host where it is a name, "" where it is an address.
func (t target) name() string {
	if t.addr.IsValid() {
		return ""
	}
	return t.host
}

var defaultPorts = map[string]uint16{"https": 443, "http": 80, "dns": 53}

func parseTarget(text string) (target, error) {
	if !strings.Contains(text, "://") {
		text = "tcp://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return target{}, fmt.Errorf("the target cannot be read: %w", err)
	}
	t := target{scheme: strings.ToLower(u.Scheme), path: u.EscapedPath(), query: u.RawQuery, port: defaultPorts[u.Scheme]}
	switch t.scheme {
	case "https", "http":
		if t.path == "" {
			t.path = "/"
		}
		if t.path, err = urlpath.Normal(t.path); err != nil {
			return target{}, fmt.Errorf("the proxy would refuse this target: %w", err)
		}
	case "tcp", "udp":
		if t.path != "" || u.RawQuery != "" {
			return target{}, fmt.Errorf("%s:// takes host:port only", t.scheme)
		}
	case "icmp":
		if t.path != "" || u.RawQuery != "" || u.Port() != "" {
			return target{}, fmt.Errorf("icmp:// takes a host only")
		}
	case "dns":
		t.query = ""
		if t.typ = strings.ToUpper(u.Query().Get("type")); t.typ == "" {
			t.typ = "A"
		}
	default:
		return target{}, fmt.Errorf("the scheme must be https, http, tcp, udp, icmp or dns")
	}
	if u.User != nil {
		return target{}, fmt.Errorf("a target has no user name")
	}
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return target{}, fmt.Errorf("%q is no port", p)
		}
		t.port = uint16(n)
	}
	if t.port == 0 && t.scheme != "icmp" {
		return target{}, fmt.Errorf("the target needs a port, such as host:443")
	}
	return t.withHost(u.Hostname())
}

func (t target) withHost(host string) (target, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		t.addr = a.Unmap().WithZone("")
		t.host = t.addr.String()
		if t.scheme == "dns" {
			return t, fmt.Errorf("dns:// takes a name")
		}
		return t, nil
	}
	if looksNumeric(host) {
		return t, fmt.Errorf("%q is neither a name nor a canonical address", host)
	}
	var err error
	t.host, err = canonicalName(host)
	return t, err
}
