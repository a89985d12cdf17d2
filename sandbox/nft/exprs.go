package nft

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// An addrField is where a header has an address.
type addrField struct {
	nfproto byte
	offset  uint32
	length  uint32
}

// RFC 791 section 3.1, RFC 8200 section 3.
var (
	src4 = addrField{unix.NFPROTO_IPV4, 12, 4}
	dst4 = addrField{unix.NFPROTO_IPV4, 16, 4}
	src6 = addrField{unix.NFPROTO_IPV6, 8, 16}
	dst6 = addrField{unix.NFPROTO_IPV6, 24, 16}
)

const (
	icmpEcho   = 8   // RFC 792
	icmp6Echo  = 128 // RFC 4443
	regVerdict = unix.NFT_REG_VERDICT
	reg1       = unix.NFT_REG_1
	// fragOffset4 is where IPv4 has its fragment flags and offset.
	fragOffset4 = 6
	// reg32 is the first of the 32-bit registers; reg1 is the first four.
	reg32 = 8
)

func compare(op expr.CmpOp, data []byte) expr.Any {
	return &expr.Cmp{Op: op, Register: reg1, Data: data}
}

func ifname(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	b := make([]byte, unix.IFNAMSIZ) // padded: the whole name, not a prefix
	copy(b, name)
	return []expr.Any{&expr.Meta{Key: key, Register: reg1}, compare(op, b)}
}

func family(nfproto byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg1}, compare(expr.CmpOpEq, []byte{nfproto})}
}

// toHost matches what has the link address of this host alone.
func toHost() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyPKTTYPE, Register: reg1}, compare(expr.CmpOpEq, []byte{unix.PACKET_HOST})}
}

func l4proto(p byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1}, compare(expr.CmpOpEq, []byte{p})}
}

// load reads an address field of its family's packets into a register.
func (a addrField) load(reg uint32) []expr.Any {
	return append(family(a.nfproto),
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: a.offset, Len: a.length})
}

func addrIs(a netip.Addr, f addrField, op expr.CmpOp) []expr.Any {
	return append(f.load(reg1), compare(op, a.AsSlice()))
}

func notIn(f addrField, set string) []expr.Any {
	return append(f.load(reg1), &expr.Lookup{SourceRegister: reg1, SetName: set, Invert: true})
}

func transport(reg, offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: length}
}

func dport(p uint16) []expr.Any {
	return []expr.Any{transport(reg1, 2, 2), compare(expr.CmpOpEq, bigEndian.PutUint16(p))}
}

func echoRequest(family int) []expr.Any {
	p, typ := byte(unix.IPPROTO_ICMP), byte(icmpEcho)
	if family == 6 {
		p, typ = unix.IPPROTO_ICMPV6, icmp6Echo
	}
	return append(l4proto(p), transport(reg1, 0, 1), compare(expr.CmpOpEq, []byte{typ}))
}

// fragment4 matches packets with an offset or more to come (RFC 791).
func fragment4() []expr.Any {
	return append(family(unix.NFPROTO_IPV4),
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: fragOffset4, Len: 2},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 2, Mask: []byte{0x3f, 0xff}, Xor: []byte{0, 0}},
		compare(expr.CmpOpNeq, []byte{0, 0}))
}

// fragment6 matches packets with a fragment header (RFC 8200 section 4.5).
func fragment6() []expr.Any {
	return append(family(unix.NFPROTO_IPV6),
		&expr.Exthdr{DestRegister: reg1, Type: unix.IPPROTO_FRAGMENT, Len: 1, Flags: unix.NFT_EXTHDR_F_PRESENT, Op: expr.ExthdrOpIpv6},
		compare(expr.CmpOpEq, []byte{1}))
}

func count(counter string) []expr.Any {
	return []expr.Any{&expr.Objref{Type: int(nftables.ObjTypeCounter), Name: counter}}
}

func nflog(prefix string) []expr.Any {
	return []expr.Any{&expr.Log{
		Key: 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_SNAPLEN | 1<<unix.NFTA_LOG_QTHRESHOLD,
		// A threshold of 1: the kernel otherwise gathers 100 packets or a second.
		Group: LogGroup, QThreshold: 1, Snaplen: LogBytes, Data: []byte(prefix),
	}}
}

func verdict(k expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: k, Chain: chain}}
}

// Special-purpose blocks (RFC 6890 and the IANA registries): in observe mode
// an address here is still reached by an element only. The list errs on the
// open side (the flow layer, which knows the host's own addresses too, is
// exact); blocks within others are left out, since a set's intervals must be
// disjoint.
const (
	setRestricted4 = "restricted4"
	setRestricted6 = "restricted6"
)

var restricted4 = []string{
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
	"172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/3",
}

var restricted6 = []string{
	"::/127", "::ffff:0.0.0.0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "fc00::/7", "fe80::/9", "ff00::/8",
}

// intervalElements writes networks as the kernel's interval sets have them: a
// start and an open end each.
func intervalElements(nets []string) []nftables.SetElement {
	var out []nftables.SetElement
	for _, n := range nets {
		p := netip.MustParsePrefix(n)
		out = append(out, nftables.SetElement{Key: p.Addr().AsSlice()})
		if end := lastAddr(p).Next(); end.IsValid() {
			out = append(out, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return out
}

// lastAddr returns the last address of a network.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
