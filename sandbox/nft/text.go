package nft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// String writes an element's key as nft does.
func (e element) String() string {
	if e.m.hosts() {
		return e.lo.String() + " . " + protoText(e.proto)
	}
	return rangeText(e.lo, e.hi) + " . " + protoText(e.proto) + " . " + portText(e.portLo, e.portHi)
}

func portText(lo, hi uint16) string {
	if lo == hi {
		return strconv.Itoa(int(lo))
	}
	return fmt.Sprintf("%d-%d", lo, hi)
}

func protoText(p byte) string {
	switch p {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_ICMP:
		return "icmp"
	case unix.IPPROTO_IGMP:
		return "igmp"
	case unix.IPPROTO_ICMPV6:
		return "ipv6-icmp"
	}
	return strconv.Itoa(int(p))
}

// rangeText writes an address, a network where the range is one, or a range.
func rangeText(lo, hi netip.Addr) string {
	if lo == hi {
		return lo.String()
	}
	a, b := lo.AsSlice(), hi.AsSlice()
	bits := 0
	for bits < len(a)*8 && a[bits/8]&(0x80>>(bits%8)) == b[bits/8]&(0x80>>(bits%8)) {
		bits++
	}
	p := netip.PrefixFrom(lo, bits)
	if p.Masked().Addr() == lo && lastAddr(p) == hi {
		return p.String()
	}
	return lo.String() + "-" + hi.String()
}

// intervalTexts writes the elements of a plain interval set, which the kernel
// keeps as starts and open ends in any order.
func intervalTexts(elems []nftables.SetElement) []string {
	elems = slices.Clone(elems)
	// At one address the end of the interval below comes before a start.
	slices.SortFunc(elems, func(a, b nftables.SetElement) int {
		if c := bytes.Compare(a.Key, b.Key); c != 0 || a.IntervalEnd == b.IntervalEnd {
			return c
		}
		if a.IntervalEnd {
			return -1
		}
		return 1
	})
	var out []string
	for i, s := range elems {
		lo, ok := netip.AddrFromSlice(s.Key)
		if s.IntervalEnd || !ok {
			continue
		}
		hi := lastAddr(netip.PrefixFrom(lo, 0))
		if i+1 < len(elems) {
			if end, ok := netip.AddrFromSlice(elems[i+1].Key); ok {
				hi = end.Prev()
			}
		}
		out = append(out, rangeText(lo, hi))
	}
	return out
}

// verdictText reads the verdict of a map's element: "jump r_x", or what else
// someone put there.
func verdictText(data []byte) string {
	var code int32
	var chain string
	ad, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return "# unknown verdict"
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_VERDICT_CODE:
			if b := ad.Bytes(); len(b) == 4 {
				code = int32(binary.BigEndian.Uint32(b))
			}
		case unix.NFTA_VERDICT_CHAIN:
			chain = ad.String()
		}
	}
	return verdictWord(expr.VerdictKind(code), chain)
}

func verdictWord(k expr.VerdictKind, chain string) string {
	switch k {
	case expr.VerdictAccept:
		return "accept"
	case expr.VerdictDrop:
		return "drop"
	case expr.VerdictJump:
		return "jump " + chain
	case expr.VerdictGoto:
		return "goto " + chain
	case expr.VerdictReturn:
		return "return"
	case expr.VerdictContinue:
		return "continue"
	}
	return fmt.Sprintf("# verdict %d", k)
}

func baseChainText(ch *nftables.Chain) string {
	hooks := map[nftables.ChainHook]string{*nftables.ChainHookInput: "input",
		*nftables.ChainHookPrerouting: "prerouting", *nftables.ChainHookForward: "forward", *nftables.ChainHookOutput: "output"}
	hook := hooks[*ch.Hooknum]
	if hook == "" {
		hook = fmt.Sprintf("# hook %d", *ch.Hooknum)
	}
	prio := "filter"
	if p := int32(*ch.Priority); p != 0 {
		prio = strconv.Itoa(int(p))
	}
	policy := "accept"
	if ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop {
		policy = "drop"
	}
	return fmt.Sprintf("type %s hook %s priority %s; policy %s;", ch.Type, hook, prio, policy)
}

// A ruleWriter turns the kernel's small steps back into statements. Loads
// pile up until a comparison or a lookup uses them. As in nft, a comparison
// of the family or the protocol is not printed when the next load says it.
type ruleWriter struct {
	out     []string
	loads   []string
	pending string // a comparison that the next load may make superfluous
	nfproto byte
	l4      byte
}

func ruleText(exprs []expr.Any) string {
	var w ruleWriter
	for _, e := range exprs {
		w.expr(e)
	}
	w.flush()
	return strings.Join(w.out, " ")
}

func (w *ruleWriter) flush() {
	if w.pending != "" {
		w.out = append(w.out, w.pending)
		w.pending = ""
	}
}

func (w *ruleWriter) say(format string, args ...any) {
	w.flush()
	w.out = append(w.out, fmt.Sprintf(format, args...))
}

func (w *ruleWriter) expr(e expr.Any) {
	switch e := e.(type) {
	case *expr.Meta:
		w.meta(e)
	case *expr.Payload:
		w.payload(e)
	case *expr.Exthdr:
		w.exthdr(e)
	case *expr.Bitwise:
		w.bitwise(e)
	case *expr.Cmp:
		w.cmp(e)
	case *expr.Lookup:
		w.lookup(e)
	case *expr.Objref:
		w.say("counter name %q", e.Name)
	case *expr.Counter:
		w.say("counter packets %d bytes %d", e.Packets, e.Bytes)
	case *expr.Log:
		w.log(e)
	case *expr.Verdict:
		w.say("%s", verdictWord(e.Kind, e.Chain))
	default:
		w.say("# %T", e)
	}
}

func (w *ruleWriter) meta(e *expr.Meta) {
	names := map[expr.MetaKey]string{expr.MetaKeyIIFNAME: "iifname", expr.MetaKeyOIFNAME: "oifname",
		expr.MetaKeyPKTTYPE: "meta pkttype", expr.MetaKeyNFPROTO: "meta nfproto", expr.MetaKeyL4PROTO: "meta l4proto"}
	name := names[e.Key]
	if name == "" {
		name = fmt.Sprintf("# meta %d", e.Key)
	}
	if len(w.loads) == 0 && name != "meta l4proto" {
		w.flush()
	}
	w.loads = append(w.loads, name)
}

func (w *ruleWriter) payload(e *expr.Payload) {
	net := e.Base == expr.PayloadBaseNetworkHeader
	is := func(f addrField) bool {
		return net && w.nfproto == f.nfproto && e.Offset == f.offset && e.Len == f.length
	}
	name := fmt.Sprintf("# payload base %d offset %d length %d", e.Base, e.Offset, e.Len)
	switch {
	case is(src4):
		name = "ip saddr"
	case is(dst4):
		name = "ip daddr"
	case is(src6):
		name = "ip6 saddr"
	case is(dst6):
		name = "ip6 daddr"
	case is(addrField{unix.NFPROTO_IPV4, fragOffset4, 2}):
		name = "ip frag-off"
	case e.Base == expr.PayloadBaseTransportHeader:
		name = w.transportName(e)
	}
	w.implied(net)
	w.loads = append(w.loads, name)
}

// implied leaves out the pending comparison that a header's name implies.
func (w *ruleWriter) implied(net bool) {
	if strings.HasPrefix(w.pending, map[bool]string{true: "meta nfproto ", false: "meta l4proto "}[net]) {
		w.pending = ""
	}
}

func (w *ruleWriter) exthdr(e *expr.Exthdr) {
	if e.Op != expr.ExthdrOpIpv6 || e.Type != unix.IPPROTO_FRAGMENT || e.Flags != unix.NFT_EXTHDR_F_PRESENT {
		w.loads = append(w.loads, fmt.Sprintf("# exthdr op %d type %d", e.Op, e.Type))
		return
	}
	w.implied(true)
	w.loads = append(w.loads, "exthdr frag")
}

func (w *ruleWriter) bitwise(e *expr.Bitwise) {
	text := fmt.Sprintf(" # bitwise %x ^ %x", e.Mask, e.Xor)
	if len(e.Mask) == 2 && bytes.Equal(e.Xor, []byte{0, 0}) {
		text = fmt.Sprintf(" & %d", binary.BigEndian.Uint16(e.Mask))
	}
	w.loads = []string{w.take() + text}
}

func (w *ruleWriter) transportName(e *expr.Payload) string {
	proto := "th"
	if len(w.loads) == 0 && (w.l4 == unix.IPPROTO_TCP || w.l4 == unix.IPPROTO_UDP) {
		proto = protoText(w.l4)
	}
	switch {
	case e.Offset == 0 && e.Len == 1 && w.l4 == unix.IPPROTO_ICMP:
		return "icmp type"
	case e.Offset == 0 && e.Len == 1 && w.l4 == unix.IPPROTO_ICMPV6:
		return "icmpv6 type"
	case e.Offset == 0 && e.Len == 2:
		return proto + " sport"
	case e.Offset == 2 && e.Len == 2:
		return proto + " dport"
	}
	return fmt.Sprintf("# transport offset %d length %d", e.Offset, e.Len)
}

// take returns what was loaded and forgets it.
func (w *ruleWriter) take() string {
	s := strings.Join(w.loads, " . ")
	w.loads = nil
	return s
}

func (w *ruleWriter) cmp(e *expr.Cmp) {
	op := map[expr.CmpOp]string{expr.CmpOpEq: " ", expr.CmpOpNeq: " != "}[e.Op]
	if op == "" {
		op = fmt.Sprintf(" # op %d ", e.Op)
	}
	name := w.take()
	val := valueText(name, e.Data)
	if len(e.Data) == 1 && e.Op == expr.CmpOpEq {
		switch name {
		case "meta nfproto":
			w.flush()
			w.nfproto, w.pending = e.Data[0], name+op+val
			return
		case "meta l4proto":
			w.flush()
			w.l4, w.pending = e.Data[0], name+op+val
			return
		}
	}
	w.say("%s%s%s", name, op, val)
}

func valueText(name string, data []byte) string {
	switch {
	case name == "meta nfproto" && len(data) == 1:
		return map[byte]string{unix.NFPROTO_IPV4: "ipv4", unix.NFPROTO_IPV6: "ipv6"}[data[0]]
	case name == "meta pkttype" && len(data) == 1 && data[0] == unix.PACKET_HOST:
		return "host"
	case name == "meta l4proto" && len(data) == 1:
		return protoText(data[0])
	case strings.HasSuffix(name, "ifname"):
		return strconv.Quote(string(bytes.TrimRight(data, "\x00")))
	case strings.HasSuffix(name, "addr"):
		if a, ok := netip.AddrFromSlice(data); ok {
			return a.String()
		}
	case strings.HasSuffix(name, "port") && len(data) == 2:
		return strconv.Itoa(int(binary.BigEndian.Uint16(data)))
	case strings.HasPrefix(name, "ip frag-off & ") && len(data) == 2:
		return strconv.Itoa(int(binary.BigEndian.Uint16(data)))
	case name == "exthdr frag" && string(data) == "\x01":
		return "exists"
	case name == "icmp type" && string(data) == string([]byte{icmpEcho}),
		name == "icmpv6 type" && string(data) == string([]byte{icmp6Echo}):
		return "echo-request"
	}
	return fmt.Sprintf("0x%x", data)
}

func (w *ruleWriter) lookup(e *expr.Lookup) {
	op := " "
	switch {
	case e.IsDestRegSet:
		op = " vmap "
	case e.Invert:
		op = " != "
	}
	w.say("%s%s@%s", w.take(), op, e.SetName)
}

func (w *ruleWriter) log(e *expr.Log) {
	s := "log"
	has := func(bit int) bool { return e.Key&(1<<bit) != 0 }
	if has(unix.NFTA_LOG_PREFIX) {
		s += fmt.Sprintf(" prefix %q", e.Data)
	}
	if has(unix.NFTA_LOG_GROUP) {
		s += fmt.Sprintf(" group %d", e.Group)
	}
	if has(unix.NFTA_LOG_SNAPLEN) {
		s += fmt.Sprintf(" snaplen %d", e.Snaplen)
	}
	if has(unix.NFTA_LOG_QTHRESHOLD) {
		s += fmt.Sprintf(" queue-threshold %d", e.QThreshold)
	}
	w.say("%s", s)
}
