package gate

import (
	"encoding/hex"
	"fmt"
	"net/netip"

	"outcall/sandbox/idmap"
	"outcall/sandbox/view"
)

// Options are all that the gatekeeper is told.
type Options struct {
	IDs     idmap.Plan
	View    view.Spec
	Network Network

	// FailStage makes the named stage fail with EPERM, as if the kernel had
	// refused it; for tests. The stages of package view are reached too.
	FailStage string
}

// Stages that can fail, as StageError.Stage and Options.FailStage name them.
// Package view adds its own.
const (
	StageUserNS   = "user namespace"
	StageHelper   = "id map"
	StageNetNS    = "network namespace"
	StageInit     = "init"
	StageEnter    = "enter"
	StageSysctl   = "sysctl"
	StageBridge   = "bridge"
	StageUplink   = "uplink"
	StagePacket   = "packet socket" // its trial; with LinkAuto the tap is next
	StageTap      = "tap"
	StageRoute    = "route"
	StageSocket   = "socket"
	StageRlimit   = "rlimit"
	StageCommand  = "command namespace"
	StageTerminal = "terminal"
	StageKeyring  = "keyring"
	StageCaps     = "capabilities"
	StageSeccomp  = "seccomp"
	StageWorkdir  = "workdir"
	StageExec     = "exec"
	StageReadOnly = "read-only"
)

// Network describes the links of one session. The zero value of each field
// means its default.
type Network struct {
	Bridge string       // "outcall0"
	Subnet netip.Prefix // 10.200.0.0/24: .1 is the gateway, .2 the agent, .254 the host
	// StackMAC is the netstack's Ethernet address. It belongs to no interface,
	// so that the kernel itself never accepts a frame for it.
	StackMAC [6]byte
	NoIPv6   bool   // IPv4 only, also where the kernel has IPv6
	Link     string // LinkAuto, LinkPacket or LinkTap: what the netstack hangs on
}

// Names of the other links. Only the bridge's can be chosen.
const (
	AgentLink = "eth0"    // in the agent's netns
	PortLink  = "port0"   // its other end, a port of the bridge
	Uplink0   = "uplink0" // routed to, in the gateway netns
	Uplink1   = "uplink1" // where the packet socket sits; not with a tap
	linkMTU   = 1500
)

// The IPv6 side is the same in every session: it is a unique local prefix
// (RFC 4193) that never leaves the session.
var (
	gateway6 = netip.MustParseAddr("fd0c:a11::1")
	agent6   = netip.MustParseAddr("fd0c:a11::2")
)

// Ethernet addresses of the kernel's links, locally administered. They are
// fixed because nothing is learnt.
var (
	bridgeMAC  = mac("026f75746310")
	portMAC    = mac("026f75746311")
	agentMAC   = mac("026f75746312")
	uplink0MAC = mac("026f75746320")
	uplink1MAC = mac("026f75746321")
)

func mac(s string) [6]byte {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 6 {
		panic("gate: bad constant " + s)
	}
	return [6]byte(b)
}

func (n Network) filled() (Network, error) {
	if n.Bridge == "" {
		n.Bridge = "outcall0"
	}
	if !n.Subnet.IsValid() {
		n.Subnet = netip.MustParsePrefix("10.200.0.0/24")
	}
	n.Subnet = n.Subnet.Masked()
	if n.StackMAC == ([6]byte{}) {
		n.StackMAC = mac("026f75746301")
	}
	if n.Link == "" {
		n.Link = LinkAuto
	}
	switch {
	case n.Link != LinkAuto && n.Link != LinkPacket && n.Link != LinkTap:
		return n, fmt.Errorf("link %q: auto, packet or tap", n.Link)
	case len(n.Bridge) > 15 || !plainName(n.Bridge):
		return n, fmt.Errorf("bridge name %q: 1 to 15 of A-Z a-z 0-9 . _ -", n.Bridge)
	case n.Bridge == PortLink || n.Bridge == Uplink0 || n.Bridge == Uplink1 || n.Bridge == "lo":
		return n, fmt.Errorf("bridge name %q is taken by another link of the session", n.Bridge)
	case !n.Subnet.Addr().Is4() || n.Subnet.Bits() > 24:
		return n, fmt.Errorf("subnet %s: an IPv4 prefix of at most 24 bits is needed", n.Subnet)
	}
	return n, nil
}

func plainName(s string) bool {
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-') {
			return false
		}
	}
	return s != "." && s != ".."
}

// gateway4 and agent4 are the first two addresses of the subnet.
func (n Network) gateway4() netip.Addr { return n.Subnet.Addr().Next() }
func (n Network) agent4() netip.Addr   { return n.gateway4().Next() }

// Info is what the supervisor needs of the links and processes that were made.
type Info struct {
	Tap          bool    // the netstack's end is Client.Tap and no packet socket
	Uplink1Index int     // where the packet socket is bound; 0 with Tap
	Uplink0MAC   [6]byte // where the netstack sends its frames
	BridgeIndex  int
	IPv6         bool
	Gateway4     netip.Addr
	Gateway6     netip.Addr // invalid without IPv6
	Agent4       netip.Addr
	Agent6       netip.Addr // invalid without IPv6
	KeeperPID    int        // in the supervisor's pid namespace
	InitPID      int        // likewise
	Subordinate  bool       // U1 maps more than one id
	Notes        []string   // what could be had only in part; for the banner
}

// agentFiles is how many view.AgentFiles makes.
const agentFiles = 2

// config is the document that the gatekeeper starts with.
type config struct {
	Options
}
