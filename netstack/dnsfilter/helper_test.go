package dnsfilter

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"outcall/netstack/pin"
	"outcall/policy"
)

// A lab is a filter with everything around it faked: rules, upstream, kernel,
// audit, clock.
type lab struct {
	*Filter
	t      testing.TB
	zone   *zone
	kernel *kernel
	pins   *pin.Table

	mu     sync.Mutex
	now    time.Time
	events []policy.Event
	fail   error // the audit's
	rules  *ruleset
}

var (
	agent    = netip.MustParseAddrPort("10.200.0.2:40001")
	gateway  = netip.MustParseAddrPort("10.200.0.1:53")
	upAddr   = netip.MustParseAddrPort("192.0.2.53:53")
	upSecond = netip.MustParseAddrPort("192.0.2.54:53")
)

func (l *lab) clock() time.Time        { l.mu.Lock(); defer l.mu.Unlock(); return l.now }
func (l *lab) advance(d time.Duration) { l.mu.Lock(); l.now = l.now.Add(d); l.mu.Unlock() }
func (l *lab) Record(e policy.Event)   { l.mu.Lock(); l.events = append(l.events, e); l.mu.Unlock() }
func (l *lab) Err() error              { l.mu.Lock(); defer l.mu.Unlock(); return l.fail }
func (l *lab) current() *ruleset       { l.mu.Lock(); defer l.mu.Unlock(); return l.rules }

func (l *lab) taken() []policy.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.events
	l.events = nil
	return e
}

// kernel records what it was asked to pass.
type kernel struct {
	mu     sync.Mutex
	cells  map[policy.Cell]bool
	fail   error
	before func() // before anything is added
}

func (k *kernel) AddPins(_ context.Context, cells []policy.Cell) error {
	k.mu.Lock()
	before := k.before
	k.mu.Unlock()
	if before != nil {
		before()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail != nil {
		return k.fail
	}
	for _, c := range cells {
		k.cells[c] = true
	}
	return nil
}

func (k *kernel) DelPins(_ context.Context, cells []policy.Cell) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail != nil {
		return k.fail
	}
	for _, c := range cells {
		delete(k.cells, c)
	}
	return nil
}

func (k *kernel) passes(a string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for c := range k.cells {
		if c.Prefix.Addr() == netip.MustParseAddr(a) {
			return true
		}
	}
	return false
}

// cells443 gives every pin port 443.
func cells443(_ string, a netip.Addr, _ []policy.Grant) []policy.Cell {
	return []policy.Cell{{Prefix: netip.PrefixFrom(a, a.BitLen()), Proto: policy.TCP, PortLow: 443, PortHigh: 443, Rule: "r"}}
}

// fakeRules allows the names in allow and blocks those in block; "TXT name"
// allows a type of a name.
func fakeRules(generation uint64, allow, block string) *ruleset {
	ok, bad := strings.Fields(allow), strings.Fields(block)
	return &ruleset{
		generation: generation,
		step: func(f *policy.Facts) policy.Outcome {
			name, typ := fmt.Sprint(f.Value(policy.DNSQuery)), fmt.Sprint(f.Value(policy.DNSRecordType))
			if slices.Contains(bad, name) {
				return policy.Outcome{Word: policy.Deny, Rule: &policy.Rule{ID: "block-" + name, Block: true}, Reason: "blocked"}
			}
			usual := slices.Contains([]string{"A", "AAAA", "CNAME", "HTTPS", "SVCB"}, typ)
			if slices.Contains(ok, name) && usual || slices.Contains(ok, name+"/"+typ) {
				return policy.Outcome{Word: policy.Allow, Rule: &policy.Rule{ID: "allow-" + name}}
			}
			return policy.Outcome{Reason: "nothing matched"}
		},
		openAddr: func(_ *policy.Facts, a netip.Addr, _ *policy.Host) (bool, string) {
			if a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || !a.IsGlobalUnicast() || a.Is4In6() ||
				netip.MustParsePrefix("64:ff9b::/96").Contains(a) || netip.MustParsePrefix("100.64.0.0/10").Contains(a) {
				return false, "restricted"
			}
			return true, ""
		},
		grants: func(*policy.Facts, netip.Addr) []policy.Grant { return nil },
	}
}

// zone is a fake upstream: records by "name type", in miekg's text form. It
// keeps every message that it was sent.
type zone struct {
	mu         sync.Mutex
	t          testing.TB
	rrs        map[string][]string
	rcode      map[string]int
	asked      [][]byte
	tcp        []bool
	server     []netip.AddrPort
	refuseEDNS bool
	mangle     func(m *dns.Msg, tcp bool)                        // before packing
	hook       func(ctx context.Context, s netip.AddrPort) error // before answering
}

func (z *zone) Exchange(ctx context.Context, s netip.AddrPort, tcp bool, query []byte, accept func([]byte) bool) ([]byte, error) {
	z.mu.Lock()
	z.asked, z.tcp, z.server = append(z.asked, slices.Clone(query)), append(z.tcp, tcp), append(z.server, s)
	hook := z.hook
	z.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, s); err != nil {
			return nil, err
		}
	}
	raw := z.reply(query, tcp)
	if !tcp && !accept(raw) {
		return nil, errors.New("no datagram was accepted")
	}
	return raw, nil
}

func (z *zone) reply(query []byte, tcp bool) []byte {
	q := new(dns.Msg)
	if err := q.Unpack(query); err != nil {
		z.t.Errorf("upstream got a bad question: %v", err)
		return nil
	}
	m := new(dns.Msg).SetReply(q)
	k := strings.ToLower(q.Question[0].Name) + " " + typeName(q.Question[0].Qtype)
	z.mu.Lock()
	defer z.mu.Unlock()
	m.Rcode = z.rcode[k]
	for _, s := range z.rrs[k] {
		rr, err := dns.NewRR(s)
		if err != nil {
			z.t.Errorf("bad test record %q: %v", s, err)
			continue
		}
		if rr.Header().Rrtype == dns.TypeSOA && q.Question[0].Qtype != dns.TypeSOA {
			m.Ns = append(m.Ns, rr)
		} else {
			m.Answer = append(m.Answer, rr)
		}
	}
	if z.refuseEDNS && q.IsEdns0() != nil {
		m.Rcode, m.Answer = dns.RcodeFormatError, nil
	}
	if z.mangle != nil {
		z.mangle(m, tcp)
	}
	b, err := m.Pack()
	if err != nil {
		z.t.Errorf("upstream cannot pack: %v", err)
	}
	return b
}

func (z *zone) put(k string, rrs ...string) { z.mu.Lock(); z.rrs[k] = rrs; z.mu.Unlock() }
func (z *zone) count() int                  { z.mu.Lock(); defer z.mu.Unlock(); return len(z.asked) }

func newLab(t testing.TB, rules *ruleset, change ...func(*Config)) *lab {
	l := &lab{t: t, now: time.Unix(1e9, 0), rules: rules}
	l.zone = &zone{t: t, rrs: map[string][]string{}, rcode: map[string]int{}}
	l.kernel = &kernel{cells: map[policy.Cell]bool{}}
	l.pins = pin.New(pin.Options{Kernel: l.kernel, Cells: cells443, Generation: rules.generation, Clock: l.clock})
	c := Config{
		Who: policy.Who{Agent: "a", Session: "s"}, Pins: l.pins, Audit: l, Exchanger: l.zone,
		Upstreams: []netip.AddrPort{upAddr}, IPv6: true, Clock: l.clock,
		Gateway4: gateway.Addr(), Gateway6: netip.MustParseAddr("fd0c:a11::1"),
		Host4: netip.MustParseAddr("10.200.0.254"), Host6: netip.MustParseAddr("fd0c:a11::fe"),
	}
	for _, f := range change {
		f(&c)
	}
	l.Filter = New(c)
	l.Filter.rules = l.current
	t.Cleanup(l.Filter.Close)
	return l
}

// query packs a client's question with EDNS.
func query(name string, qtype uint16) *dns.Msg {
	m := new(dns.Msg).SetQuestion(name, qtype)
	m.SetEdns0(1232, false)
	return m
}

func (l *lab) send(m *dns.Msg) *dns.Msg {
	l.t.Helper()
	b, err := m.Pack()
	if err != nil {
		l.t.Fatal(err)
	}
	return l.sendRaw(b)
}

func (l *lab) sendRaw(b []byte) *dns.Msg {
	l.t.Helper()
	raw := l.ServeUDP(context.Background(), agent, gateway, b)
	if raw == nil {
		return nil
	}
	r := new(dns.Msg)
	if err := r.Unpack(raw); err != nil {
		l.t.Fatalf("our reply does not unpack: %v", err)
	}
	return r
}

func (l *lab) ask(name string, qtype uint16) *dns.Msg {
	l.t.Helper()
	r := l.send(query(name, qtype))
	if r == nil {
		l.t.Fatalf("no reply for %s", name)
	}
	return r
}

// ede returns the extended error of a reply.
func ede(m *dns.Msg) (code int, text string) {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				return int(e.InfoCode), e.ExtraText
			}
		}
	}
	return -1, ""
}

// texts returns the records in text form without owner and TTL.
func texts(m *dns.Msg) (out []string) {
	for _, rr := range m.Answer {
		out = append(out, strings.Join(strings.Fields(rr.String())[3:], " "))
	}
	return out
}

func (l *lab) wantAnswer(m *dns.Msg, rcode int, want ...string) {
	l.t.Helper()
	if got := texts(m); m.Rcode != rcode || !slices.Equal(got, want) {
		l.t.Fatalf("got %s %q, want %s %q", rcodeName(m.Rcode), got, rcodeName(rcode), want)
	}
}

func (l *lab) wantEvents(want ...string) {
	l.t.Helper()
	var got []string
	for _, e := range l.taken() {
		s := e.Event + " " + e.Verdict + " " + e.Query + " " + e.RecordType + " " + e.Rule
		if e.Structural {
			s += " structural"
		}
		got = append(got, strings.Join(strings.Fields(s), " "))
	}
	if !slices.Equal(got, want) {
		l.t.Fatalf("events\n got %q\nwant %q", got, want)
	}
}
