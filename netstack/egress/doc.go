// Package egress re-opens an allowed flow as an ordinary socket of the user.
// It dials exactly the address that was judged, never a name, with two
// exceptions that the caller configures: an upstream proxy that takes names
// only, and the service addresses that stand for the host's loopback.
//
//	Dial(name, address) ─ never: the session's own networks, multicast, unspecified
//	                    ├ service address → the host's loopback, same port
//	                    ├ no proxy, or NO_PROXY names it → connect(2)
//	                    ├ http://   CONNECT address, and where that is refused CONNECT name
//	                    └ socks5:// the same by RFC 1928
//
// UDP and ICMP echo go the same way, but by no proxy: datagrams.go.
//
// Via says which way it was; "by-proxy" means that the proxy resolved the name
// and no address that we judged was held to.
package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"outcall/netstack/internal/waits"
)

// The ways that Conn.Via names.
const (
	Direct  = ""         // our own connect to the judged address
	Proxied = "proxy"    // the proxy connected to the judged address
	ByProxy = "by-proxy" // the proxy resolved the name
)

// A Kind says what a failed dial means for the client.
type Kind uint8

// The kinds.
const (
	Refused     Kind = iota + 1 // the far end answered with a reset
	Unreachable                 // no route, or a router or firewall said no
	Timeout                     // nobody answered
	Proxy                       // the upstream proxy failed or said no
	Forbidden                   // an address, or a protocol, that never goes out
)

var kindNames = [...]string{"", "connection refused", "unreachable", "timed out", "upstream proxy", "forbidden"}

// String returns the words that denials and 502 answers use.
func (k Kind) String() string { return kindNames[k] }

// An Error is a failed dial.
type Error struct {
	Kind Kind
	Addr netip.AddrPort
	Err  error
}

func (e *Error) Error() string { return fmt.Sprintf("dial %s: %v", e.Addr, e.Err) }

// Unwrap returns the kernel's or the proxy's answer.
func (e *Error) Unwrap() error { return e.Err }

// classify turns the kernel's answer into what the client shall see.
func classify(addr netip.AddrPort, err error) *Error {
	k := Unreachable
	var ne net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		k = Refused
	case errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, context.Canceled), errors.Is(err, os.ErrDeadlineExceeded):
		k = Timeout
	case errors.As(err, &ne) && ne.Timeout():
		k = Timeout
	}
	return &Error{Kind: k, Addr: addr, Err: err}
}

// KeepAlive are the probes that find a dead peer of an idle flow.
var KeepAlive = net.KeepAliveConfig{Enable: true, Idle: waits.KeepIdle, Interval: waits.KeepInterval, Count: waits.KeepCount}
