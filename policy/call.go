package policy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
)

// ParseCall reads the target of a network call that an agent asks about, with
// the very code that reads explain's targets: an http or https URL, or
// host[:port], whose port is 443 where none is given. target is what Explain
// is to be asked then. A call without a scheme is explained as https on port
// 443 and as http on port 80: what else is spoken there no rule allows by
// name alone.
func ParseCall(text string, proto Proto, method string) (c Call, target string, err error) {
	if strings.ContainsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return c, "", errors.New("a target has no spaces and no control characters")
	}
	url := strings.Contains(text, "://")
	if !url {
		text = string(proto) + "://" + withPort(text)
	}
	t, err := parseTarget(text)
	if err != nil {
		return c, "", err
	}
	c = Call{Host: t.host, Port: t.port, Proto: proto}
	hostPort := net.JoinHostPort(t.host, strconv.Itoa(int(t.port)))
	if !url {
		return c, withoutScheme(t, hostPort), nil
	}
	if t.scheme != "http" && t.scheme != "https" {
		return c, "", errors.New("a target is an http or https URL, or host:port")
	}
	c.Proto, c.Scheme = TCP, t.scheme
	c.HTTP = &HTTP{Host: t.host, Method: method, Path: t.path, Query: t.query, BodySize: -1}
	target = t.scheme + "://" + hostPort + t.path
	if t.query != "" {
		target += "?" + t.query
	}
	return c, target, nil
}

// withoutScheme is the target of a call that says only where it goes.
func withoutScheme(t target, hostPort string) string {
	switch {
	case t.scheme == "tcp" && t.port == 443:
		return "https://" + hostPort + "/"
	case t.scheme == "tcp" && t.port == 80:
		return "http://" + hostPort + "/"
	}
	return t.scheme + "://" + hostPort
}

// withPort adds the port of https where a host has none.
func withPort(host string) string {
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
		return fmt.Sprintf("[%s]:443", host)
	}
	if i := strings.LastIndexByte(host, ':'); i < 0 || strings.HasSuffix(host, "]") {
		return host + ":443"
	}
	return host
}
