package netstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"outcall/netstack/egress"
	"outcall/netstack/internal/waits"
	"outcall/netstack/link"
	"outcall/policy"
)

// Pins is what flows need of the pin table (package pin).
type Pins interface {
	// Candidates returns the live names at an address, resolved last first.
	Candidates(addr netip.Addr) []policy.Candidate
	// ExpiredNames returns the remembered names whose pins at addr have run
	// out, the latest first.
	ExpiredNames(addr netip.Addr) []string
	// Hold keeps a pin alive while a flow uses it, until release is called.
	Hold(name string, addr netip.Addr) (release func())
}

// A Question asks the DNS filter on behalf of a flow and not of a DNS client.
type Question struct {
	Name    string
	Src     netip.AddrPort // the client's socket
	Process *policy.Process
	// NeedAllow wants the dns layer to answer for the name by itself; else only
	// a true dns block is in the way.
	NeedAllow bool
	// Keep is an address that stays the name's even where the new answer lacks
	// it: the one of an expired pin.
	Keep netip.Addr
}

// An Answer is what the filter made of a Question. Its addresses are pinned.
type Answer struct {
	Addrs   []netip.Addr
	Outcome policy.Outcome // of the dns layer
	Denied  bool           // by the dns layer; Outcome says by which rule and why
	// WouldDeny is Denied of a rule that observe let through.
	WouldDeny bool
	// Structural denials hold in every mode.
	Structural bool
	Reason     string // why there is no address, for people
	Timeout    bool   // nobody answered
}

// Names is the DNS filter.
type Names interface {
	// ServeUDP answers one datagram; nil is silence.
	ServeUDP(ctx context.Context, src, dst netip.AddrPort, msg []byte) []byte
	// ServeTCP answers on one connection until it or ctx ends, and closes it.
	ServeTCP(ctx context.Context, conn net.Conn, src, dst netip.AddrPort)
	// Resolve judges, asks and pins a name.
	Resolve(ctx context.Context, q Question) (Answer, error)
}

// A Dialer opens the outward side of a flow (package egress).
type Dialer interface {
	Dial(ctx context.Context, name string, dst netip.AddrPort) (*egress.Conn, error)
	// DialUDP and DialEcho send nothing and do not wait.
	DialUDP(name string, dst netip.AddrPort) (*egress.Datagrams, error)
	DialEcho(name string, dst netip.Addr) (*egress.Datagrams, error)
}

// Config is what a Stack is made of. All fields but Attributor, Host and
// NoProxy are required.
type Config struct {
	Link       link.Link
	Snapshot   func() *policy.Snapshot // the current rule set; atomically swapped by its owner
	Who        policy.Who
	Pins       Pins
	DNS        Names
	Egress     Dialer
	Attributor Attributor // nil: process.* is hidden
	Auditor    Auditor
	Observe    bool                // rule denials pass as would_deny
	Host       func() *policy.Host // nil: nothing is known of the host

	Gateway4, Gateway6 netip.Addr
	ProxyPort          uint16
	NoProxy            bool
}

// Limits of a session; each is reached by a test.
const (
	// MaxFlows is the number of flows of every protocol. At the limit the
	// longest idle goes.
	MaxFlows = 16384
	// MaxDialing is the number of connects in progress to one address and
	// port; more wait their turn, they are not refused.
	MaxDialing = 32
	// maxPackets is the number of refused packets in work, maxQuestions that of
	// DNS datagrams. A packet beyond is lost, and costs a retransmission.
	maxPackets   = 256
	maxQuestions = 1024
	// maxOfSocket is the number of DNS datagrams of one socket in work: more than
	// any resolver library asks at once.
	maxOfSocket = 128
	// maxRenewed is the number of names of one address that one SYN resolves
	// again: a shared address can have had more than anyone uses.
	maxRenewed = 16
)

// timeouts are the waits of a flow. They are fields so that tests need not
// wait.
type timeouts struct {
	first   time.Duration // the first flight from its first octet (contract: 10 s)
	idle    time.Duration // HTTP between two requests
	ask     time.Duration // for the answer to Expect: 100-continue, before the body goes all the same
	udp     time.Duration // UDP without a datagram either way
	echo    time.Duration // ICMP echo likewise
	dial    time.Duration // one connect, all its addresses together
	stagger time.Duration // between two addresses of a name (RFC 8305's connection attempt delay)
	resolve time.Duration
	linger  time.Duration // after a refusal in words, for the client to read it
}

var defaultTimeouts = timeouts{
	first:   10 * time.Second,
	idle:    waits.HTTP,
	ask:     time.Second, // what curl and Go wait
	udp:     waits.UDP,
	echo:    waits.Echo,
	dial:    75 * time.Second, // beyond a client's own patience; the kernel's own is 127 s
	stagger: 250 * time.Millisecond,
	resolve: 15 * time.Second,
	linger:  2 * time.Second,
}

func (c *Config) check() error {
	switch {
	case c.Link == nil, c.Snapshot == nil, c.Pins == nil, c.DNS == nil, c.Egress == nil, c.Auditor == nil:
		return errors.New("netstack: incomplete configuration")
	case !c.Gateway4.Is4() || !c.Gateway6.Is6():
		return errors.New("netstack: gateway addresses missing")
	case !c.NoProxy && c.ProxyPort == 0:
		return errors.New("netstack: no proxy port")
	}
	if c.Host == nil {
		c.Host = func() *policy.Host { return nil }
	}
	return nil
}
