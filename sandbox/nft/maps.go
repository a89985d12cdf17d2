package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"outcall/policy"
)

// A mapID names one of the table's verdict maps.
type mapID uint8

const (
	pins4 mapID = iota
	pins6
	ranges4
	ranges6
	hosts4
	hosts6
	nets4
	nets6
)

var (
	allMaps  = []mapID{pins4, pins6, ranges4, ranges6, hosts4, hosts6, nets4, nets6}
	mapNames = [...]string{"pins4", "pins6", "ranges4", "ranges6", "hosts4", "hosts6", "nets4", "nets6"}
)

func (m mapID) String() string { return mapNames[m] }
func (m mapID) six() bool      { return m&1 == 1 }
func (m mapID) ranges() bool   { return m == ranges4 || m == ranges6 }
func (m mapID) hosts() bool    { return m == hosts4 || m == hosts6 }
func (m mapID) nets() bool     { return m >= nets4 }
func (m mapID) interval() bool { return m.ranges() || m.nets() }

// set describes the map addr . l4proto . port : verdict to the kernel; that
// of hosts has no port.
func (m mapID) set(t *nftables.Table) *nftables.Set {
	addr := nftables.TypeIPAddr
	if m.six() {
		addr = nftables.TypeIP6Addr
	}
	parts := []nftables.SetDatatype{addr, nftables.TypeInetProto, nftables.TypeInetService}
	if m.hosts() {
		parts = parts[:2]
	}
	return &nftables.Set{Table: t, Name: m.String(), IsMap: true, Concatenation: true, Interval: m.interval(),
		KeyType: nftables.MustConcatSetType(parts...), DataType: nftables.TypeVerdict}
}

// lookup asks the map for a packet. The third part of the key is the
// destination port, or for echo requests the type and code.
func (m mapID) lookup(echo bool) []expr.Any {
	dst, proto, port := dst4, uint32(reg32+1), uint32(reg32+2)
	if m.six() {
		dst, proto, port = dst6, reg32+4, reg32+5
	}
	at := uint32(2)
	if echo {
		at = 0
	}
	key := append(dst.load(reg1), &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: proto})
	if !m.hosts() {
		key = append(key, transport(port, at, 2))
	}
	return append(key, &expr.Lookup{SourceRegister: reg1, DestRegister: regVerdict, IsDestRegSet: true, SetName: m.String()})
}

// An element is one key of a map: addresses lo to hi, ports portLo to portHi.
// In the hash maps both ends are equal; one of hosts has ports 0.
type element struct {
	m              mapID
	lo, hi         netip.Addr
	proto          uint8
	portLo, portHi uint16
}

// set returns the element as the library has it; chain is "" to delete.
func (e element) set(chain string) nftables.SetElement {
	s := nftables.SetElement{Key: concat(e.lo, e.proto, e.portLo)}
	if e.m.hosts() {
		s.Key = s.Key[:len(s.Key)-4]
	}
	if e.m.interval() {
		s.KeyEnd = concat(e.hi, e.proto, e.portHi)
	}
	if chain != "" {
		s.VerdictData = &expr.Verdict{Kind: expr.VerdictJump, Chain: chain}
	}
	return s
}

// weight is what adding the element costs in a batch, in bytes, rounded up.
func (e element) weight(rule string) int { return 160 + len(rule) }

// concat writes a key: each part padded to four bytes.
func concat(a netip.Addr, proto uint8, port uint16) []byte {
	b := append(a.AsSlice(), proto, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, port)
	return append(b, 0, 0)
}

// parseElement reads an element as the kernel told it.
func parseElement(m mapID, s nftables.SetElement) (element, bool) {
	e := element{m: m}
	var ok bool
	if m.hosts() {
		s.Key = append(s.Key[:len(s.Key):len(s.Key)], 0, 0, 0, 0)
	}
	if e.lo, e.proto, e.portLo, ok = cutConcat(m, s.Key); !ok {
		return e, false
	}
	e.hi, e.portHi = e.lo, e.portLo
	if m.interval() && len(s.KeyEnd) > 0 {
		var proto uint8
		e.hi, proto, e.portHi, ok = cutConcat(m, s.KeyEnd)
		ok = ok && proto == e.proto
	}
	return e, ok
}

func cutConcat(m mapID, b []byte) (a netip.Addr, proto uint8, port uint16, ok bool) {
	n := 4
	if m.six() {
		n = 16
	}
	if len(b) != n+8 {
		return a, 0, 0, false
	}
	a, ok = netip.AddrFromSlice(b[:n])
	return a, b[n], binary.BigEndian.Uint16(b[n+4:]), ok
}

// maxRuleID is the longest id of a rule. The kernel takes names of 255 bytes
// (NFT_NAME_MAXLEN), so none is ever shortened.
const maxRuleID = 128

// chainOf returns the name of a rule's chain and counter: the kernel and the
// nft program want a letter first and know '.', '-' and '_'.
func chainOf(rule string) string { return "r_" + rule }

func checkRule(id string) error {
	if id == "" || len(id) > maxRuleID {
		return fmt.Errorf("nft: a rule id of %d characters", len(id))
	}
	for _, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
		default:
			return fmt.Errorf("nft: the rule id %q cannot be a name in the kernel", id)
		}
	}
	return nil
}

// A protoPorts is a cell's protocol and ports as the kernel sees them.
type protoPorts struct {
	proto  uint8
	lo, hi uint16
}

func portsOf(c policy.Cell, six bool) (protoPorts, error) {
	switch {
	case c.Proto == policy.TCP && c.PortLow <= c.PortHigh:
		return protoPorts{unix.IPPROTO_TCP, c.PortLow, c.PortHigh}, nil
	case c.Proto == policy.UDP && c.PortLow <= c.PortHigh:
		return protoPorts{unix.IPPROTO_UDP, c.PortLow, c.PortHigh}, nil
	case c.Proto == policy.ICMP && six:
		return protoPorts{unix.IPPROTO_ICMPV6, icmp6Echo << 8, icmp6Echo << 8}, nil
	case c.Proto == policy.ICMP:
		return protoPorts{unix.IPPROTO_ICMP, icmpEcho << 8, icmpEcho << 8}, nil
	}
	return protoPorts{}, fmt.Errorf("nft: a cell of %s %q ports %d-%d", c.Prefix, c.Proto, c.PortLow, c.PortHigh)
}

// family returns the base mapID of an address, ok only for plain addresses.
func sixOf(a netip.Addr) (six, ok bool) {
	return a.Is6(), a.IsValid() && !a.Is4In6() && a.Zone() == ""
}
