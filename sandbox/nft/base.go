package nft

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// TableName is the name of the table, family inet.
const TableName = "outcall"

// Names of the chains and counters that are not a rule's. A rule's are
// "r_<id>", so none of them can be an id's.
const (
	chainInput   = "input"
	chainOutput  = "output"
	chainForward = "forward"
	chainEcho    = "echo"
	chainRefuse  = "refuse"
	chainSpoof   = "spoof"
	chainGroup   = "group"
	chainFirst   = "prerouting"

	counterDenied   = "denied"
	counterSpoofed  = "spoofed"
	counterGroup    = "group"
	counterStray    = "stray"
	counterDNS      = "dns"
	counterProxy    = "proxy"
	counterEcho     = "echo"
	counterObserved = "observed"
)

// The prefixes of the table's NFLOG messages: a packet that no element passes,
// one whose source is not the agent's, and one that is meant for all on the
// link or for a group, which the kernel would drop without a word.
const (
	PrefixDenied  = "denied"
	PrefixSpoofed = "spoofed"
	PrefixGroup   = "group"
)

// LogGroup is the NFLOG group that the table logs to.
const LogGroup = 5

// LogBytes is how much of a logged packet is copied: IPv6, TCP and their
// options.
const LogBytes = 128

// Options are what the base table is made from.
type Options struct {
	Bridge string // the agent's side, such as outcall0
	Uplink string // the netstack's side; "" is uplink0

	Agent4, Gateway4 netip.Addr
	// Agent6 and Gateway6 are zero where the session has no IPv6: then every
	// IPv6 packet is refused.
	Agent6, Gateway6 netip.Addr

	ProxyPort uint16 // the explicit proxy at the gateways; 0: none
	// Observe passes TCP, UDP and echo requests to every address that is not
	// of a special-purpose block (see restricted4), whatever the maps hold.
	Observe bool
}

func (o *Options) check() error {
	if o.Uplink == "" {
		o.Uplink = "uplink0"
	}
	for _, n := range []string{o.Bridge, o.Uplink} {
		if n == "" || len(n) >= unix.IFNAMSIZ || strings.ContainsAny(n, "\x00/\"*") {
			return fmt.Errorf("nft: %q is no interface name", n)
		}
	}
	if !o.Agent4.Is4() || !o.Gateway4.Is4() {
		return errors.New("nft: the agent and the gateway need an IPv4 address")
	}
	if o.Agent6.IsValid() != o.Gateway6.IsValid() || o.Agent6.IsValid() && (!v6(o.Agent6) || !v6(o.Gateway6)) {
		return errors.New("nft: the agent and the gateway need an IPv6 address both, or none")
	}
	return nil
}

func v6(a netip.Addr) bool { return a.Is6() && !a.Is4In6() && a.Zone() == "" }

// A baseBuilder writes the base table into one batch.
type baseBuilder struct {
	c     *nftables.Conn
	o     Options
	table *nftables.Table
	setID uint32
}

// buildBase builds the batch that replaces the table, whatever it was, by the
// empty base table. As one batch it is atomic: there is no moment without.
func buildBase(c *nftables.Conn, o Options) error {
	b := &baseBuilder{c: c, o: o, table: &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}}
	c.AddTable(b.table) // so that the deletion finds one
	c.DelTable(b.table)
	c.AddTable(b.table)
	for _, n := range []string{counterDenied, counterSpoofed, counterGroup, counterStray, counterDNS, counterProxy, counterEcho} {
		b.counter(n)
	}
	if o.Observe {
		b.counter(counterObserved)
	}
	if err := b.maps(); err != nil {
		return err
	}
	b.logChain(chainRefuse, counterDenied, PrefixDenied)
	b.logChain(chainSpoof, counterSpoofed, PrefixSpoofed)
	b.logChain(chainGroup, counterGroup, PrefixGroup)
	b.firstChain()
	b.echoChain()
	b.hook(chainInput, nftables.ChainHookInput)
	b.hook(chainOutput, nftables.ChainHookOutput)
	b.forwardChain()
	return nil
}

func (b *baseBuilder) counter(name string) {
	b.c.AddObj(&nftables.NamedObj{Table: b.table, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
}

// maps declares the verdict maps and, to observe, the sets of addresses
// that stay closed.
func (b *baseBuilder) maps() error {
	for _, m := range allMaps {
		s := m.set(b.table)
		b.setID++
		s.ID = b.setID
		if err := b.c.AddSet(s, nil); err != nil {
			return fmt.Errorf("nft: declare map %s: %w", s.Name, err)
		}
	}
	if !b.o.Observe {
		return nil
	}
	for _, r := range []struct {
		name string
		typ  nftables.SetDatatype
		nets []string
	}{
		{setRestricted4, nftables.TypeIPAddr, restricted4},
		{setRestricted6, nftables.TypeIP6Addr, restricted6},
	} {
		b.setID++
		s := &nftables.Set{Table: b.table, ID: b.setID, Name: r.name, KeyType: r.typ, Interval: true}
		if err := b.c.AddSet(s, intervalElements(r.nets)); err != nil {
			return fmt.Errorf("nft: declare set %s: %w", s.Name, err)
		}
	}
	return nil
}

// hook adds one base chain with policy drop.
func (b *baseBuilder) hook(name string, h *nftables.ChainHook) *nftables.Chain {
	drop := nftables.ChainPolicyDrop
	return b.c.AddChain(&nftables.Chain{Table: b.table, Name: name, Type: nftables.ChainTypeFilter,
		Hooknum: h, Priority: nftables.ChainPriorityFilter, Policy: &drop})
}

func (b *baseBuilder) rule(chain *nftables.Chain, parts ...[]expr.Any) {
	r := &nftables.Rule{Table: b.table, Chain: chain}
	for _, p := range parts {
		r.Exprs = append(r.Exprs, p...)
	}
	b.c.AddRule(r)
}

func (b *baseBuilder) logChain(name, counter, prefix string) {
	ch := b.c.AddChain(&nftables.Chain{Table: b.table, Name: name})
	b.rule(ch, count(counter), nflog(prefix), verdict(expr.VerdictDrop, ""))
}

func (b *baseBuilder) echoChain() {
	ch := b.c.AddChain(&nftables.Chain{Table: b.table, Name: chainEcho})
	accept := verdict(expr.VerdictAccept, "")
	b.rule(ch, addrIs(b.o.Gateway4, dst4, expr.CmpOpEq), echoRequest(4), count(counterEcho), accept)
	if b.o.Agent6.IsValid() {
		b.rule(ch, addrIs(b.o.Gateway6, dst6, expr.CmpOpEq), echoRequest(6), count(counterEcho), accept)
	}
	for _, m := range b.liveMaps() {
		if !m.ranges() && !m.hosts() { // an echo request has one "port"
			b.rule(ch, m.lookup(true))
		}
	}
	if b.o.Observe {
		b.rule(ch, notIn(dst4, setRestricted4), echoRequest(4), count(counterObserved), accept)
		if b.o.Agent6.IsValid() {
			b.rule(ch, notIn(dst6, setRestricted6), echoRequest(6), count(counterObserved), accept)
		}
	}
	b.rule(ch, verdict(expr.VerdictGoto, chainRefuse))
}

// firstChain sees what is never routed: forward does not.
func (b *baseBuilder) firstChain() {
	ch := b.hook(chainFirst, nftables.ChainHookPrerouting)
	accept := verdict(expr.VerdictAccept, "")
	b.rule(ch, ifname(expr.MetaKeyIIFNAME, expr.CmpOpNeq, b.o.Bridge), accept)
	b.rule(ch, toHost(), accept)
	// What the agent's kernel says by itself of its groups and neighbours; the
	// gateway drops it.
	for _, p := range []byte{unix.IPPROTO_IGMP, unix.IPPROTO_ICMPV6} {
		b.rule(ch, l4proto(p), accept)
	}
	b.rule(ch, verdict(expr.VerdictGoto, chainGroup))
}

func (b *baseBuilder) forwardChain() {
	ch := b.hook(chainForward, nftables.ChainHookForward)
	accept := verdict(expr.VerdictAccept, "")
	b.rule(ch, ifname(expr.MetaKeyIIFNAME, expr.CmpOpEq, b.o.Uplink),
		ifname(expr.MetaKeyOIFNAME, expr.CmpOpEq, b.o.Bridge), accept)
	b.rule(ch, ifname(expr.MetaKeyIIFNAME, expr.CmpOpNeq, b.o.Bridge), count(counterStray), verdict(expr.VerdictDrop, ""))
	b.rule(ch, ifname(expr.MetaKeyOIFNAME, expr.CmpOpNeq, b.o.Uplink), verdict(expr.VerdictGoto, chainRefuse))
	b.rule(ch, addrIs(b.o.Agent4, src4, expr.CmpOpNeq), verdict(expr.VerdictGoto, chainSpoof))
	if b.o.Agent6.IsValid() {
		b.rule(ch, addrIs(b.o.Agent6, src6, expr.CmpOpNeq), verdict(expr.VerdictGoto, chainSpoof))
	} else {
		b.rule(ch, family(unix.NFPROTO_IPV6), verdict(expr.VerdictGoto, chainRefuse))
	}
	// A later fragment has bytes of its sender's choice where the ports would
	// be, and what it completes was never seen whole.
	b.rule(ch, fragment4(), verdict(expr.VerdictGoto, chainRefuse))
	if b.o.Agent6.IsValid() {
		b.rule(ch, fragment6(), verdict(expr.VerdictGoto, chainRefuse))
	}
	for _, p := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		b.rule(ch, l4proto(p), dport(53), count(counterDNS), accept)
	}
	if b.o.ProxyPort != 0 {
		b.rule(ch, addrIs(b.o.Gateway4, dst4, expr.CmpOpEq), l4proto(unix.IPPROTO_TCP), dport(b.o.ProxyPort), count(counterProxy), accept)
		if b.o.Agent6.IsValid() {
			b.rule(ch, addrIs(b.o.Gateway6, dst6, expr.CmpOpEq), l4proto(unix.IPPROTO_TCP), dport(b.o.ProxyPort), count(counterProxy), accept)
		}
	}
	// ICMP leaves the chain here: where TCP has its port, ICMP has a checksum
	// that its sender chooses.
	for _, p := range []byte{unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6} {
		b.rule(ch, l4proto(p), verdict(expr.VerdictGoto, chainEcho))
	}
	for _, m := range b.liveMaps() {
		b.rule(ch, m.lookup(false))
	}
	if b.o.Observe {
		b.observeRules(ch)
	}
	b.rule(ch, verdict(expr.VerdictGoto, chainRefuse))
}

func (b *baseBuilder) observeRules(ch *nftables.Chain) {
	accept := verdict(expr.VerdictAccept, "")
	for _, p := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		b.rule(ch, notIn(dst4, setRestricted4), l4proto(p), count(counterObserved), accept)
		if b.o.Agent6.IsValid() {
			b.rule(ch, notIn(dst6, setRestricted6), l4proto(p), count(counterObserved), accept)
		}
	}
}

// liveMaps are the maps that packets are looked up in. Without IPv6 those of
// IPv6 exist and stay unused.
func (b *baseBuilder) liveMaps() []mapID {
	var out []mapID
	for _, m := range allMaps {
		if !m.six() || b.o.Agent6.IsValid() {
			out = append(out, m)
		}
	}
	return out
}

// Base replaces the table by the base table in one atomic batch. The elements
// that it held before are loaded again; until they are, nothing but the
// services passes. It fails if the kernel lacks any part.
func (t *Table) Base(ctx context.Context, o Options) error {
	if err := o.check(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.foldCounters(ctx); err != nil {
		return err
	}
	c, err := t.sock.conn(ctx)
	if err != nil {
		return fmt.Errorf("nft: base table: %w", err)
	}
	if err := buildBase(c, o); err != nil {
		return err
	}
	if err := t.sock.flush(c); err != nil {
		return fmt.Errorf("nft: base table inet %s: %w", TableName, err)
	}
	t.up = true
	t.forget()
	return t.reconcile(ctx, t.want.all())
}

// Drop removes the table. Without its table the kernel passes every packet to
// the netstack; so this is for tests and for the end of a session.
func (t *Table) Drop(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, err := t.sock.conn(ctx)
	if err != nil {
		return fmt.Errorf("nft: drop table: %w", err)
	}
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
	c.AddTable(table)
	c.DelTable(table)
	if err := t.sock.flush(c); err != nil {
		return fmt.Errorf("nft: drop table inet %s: %w", TableName, err)
	}
	t.up = false
	t.forget()
	return nil
}

// Active reports whether the kernel has the table with its forward chain and
// policy drop.
func (t *Table) Active(ctx context.Context) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	chains, err := t.chains(ctx)
	if err != nil {
		return false, err
	}
	for _, ch := range chains {
		if ch.Name == chainForward && ch.Hooknum != nil && *ch.Hooknum == *nftables.ChainHookForward {
			return ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop, nil
		}
	}
	return false, nil
}

func (t *Table) chains(ctx context.Context) ([]*nftables.Chain, error) {
	c, err := t.sock.conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("nft: list chains: %w", err)
	}
	all, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("nft: list chains: %w", err)
	}
	var out []*nftables.Chain
	for _, ch := range all {
		if ch.Table != nil && ch.Table.Name == TableName {
			out = append(out, ch)
		}
	}
	return out, nil
}

var bigEndian = binaryutil.BigEndian
