package dnsfilter

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// raw builds a question message of labels without any check.
func raw(qtype, class uint16, labels ...string) []byte {
	b := []byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for _, l := range labels {
		b = append(append(b, byte(len(l))), l...)
	}
	b = append(b, 0)
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, qtype), class)
}

func flip(b []byte, at int, v byte) []byte { b[at] = v; return b }

// D12: names and messages that one reader could take differently from
// another get an error, an audit line, and go nowhere.
func TestD12Malformed(t *testing.T) {
	good := func() []byte { return raw(dns.TypeA, dns.ClassINET, "api", "allowed", "test") }
	opt := func(data ...byte) []byte {
		b := flip(good(), 11, 1)
		b = append(b, 0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, byte(len(data)))
		return append(b, data...)
	}
	long := make([]string, 5)
	for i := range long {
		long[i] = strings.Repeat("a", 60)
	}
	for name, c := range map[string]struct {
		msg   []byte
		rcode int // -1: no reply
	}{
		"NUL in a label":        {raw(1, 1, "api", "allowed", "test\x00", "evil", "test"), dns.RcodeFormatError},
		"dot in a label":        {raw(1, 1, "api.allowed", "test"), dns.RcodeFormatError},
		"space":                 {raw(1, 1, "api allowed", "test"), dns.RcodeFormatError},
		"UTF-8":                 {raw(1, 1, "аpi", "allowed", "test"), dns.RcodeFormatError},
		"label type 0x40":       {flip(good(), 12, 0x40), dns.RcodeFormatError},
		"compression pointer":   {flip(good(), 12, 0xc0), dns.RcodeFormatError},
		"label of 64 octets":    {raw(1, 1, strings.Repeat("a", 64), "test"), dns.RcodeFormatError},
		"name of 256 octets":    {raw(1, 1, long...), dns.RcodeFormatError},
		"name cut short":        {good()[:16], dns.RcodeFormatError},
		"question cut short":    {good()[:len(good())-1], dns.RcodeFormatError},
		"two questions":         {flip(append(good(), good()[12:]...), 5, 2), dns.RcodeFormatError},
		"no question":           {flip(good()[:12], 5, 0), dns.RcodeFormatError},
		"an answer":             {flip(good(), 7, 1), dns.RcodeFormatError},
		"truncated question":    {flip(good(), 2, 3), dns.RcodeFormatError},
		"trailing bytes":        {append(good(), 0), dns.RcodeFormatError},
		"additional TSIG":       {flip(opt(), len(good())+2, 250), dns.RcodeFormatError},
		"OPT cut short":         {opt(0)[:len(opt(0))-1], dns.RcodeFormatError},
		"option cut short":      {opt(0, 8, 0, 4, 0), dns.RcodeFormatError},
		"EDNS version 1":        {flip(opt(), len(good())+6, 1), dns.RcodeBadVers},
		"too long":              {append(good(), make([]byte, MaxQuery)...), dns.RcodeFormatError},
		"class CHAOS":           {raw(dns.TypeTXT, dns.ClassCHAOS, "version", "bind"), dns.RcodeRefused},
		"class ANY":             {raw(1, dns.ClassANY, "api", "allowed", "test"), dns.RcodeRefused},
		"opcode UPDATE":         {flip(good(), 2, dns.OpcodeUpdate<<3), dns.RcodeNotImplemented},
		"opcode NOTIFY":         {flip(good(), 2, dns.OpcodeNotify<<3), dns.RcodeNotImplemented},
		"a response":            {flip(good(), 2, 0x80), -1},
		"shorter than a header": {good()[:11], -1},
		"empty":                 {nil, -1},
		"label beyond the end":  {flip(good(), 12, 63), dns.RcodeFormatError},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, fakeRules(1, "api.allowed.test version.bind", ""))
			l.zone.put("api.allowed.test. A", "api.allowed.test. 60 IN A 93.184.216.34")
			r := l.sendRaw(c.msg)
			if l.zone.count() != 0 || l.pins.Len() != 0 {
				t.Fatal("it had an effect")
			}
			e := l.taken()
			if c.rcode < 0 {
				if r != nil {
					t.Fatalf("a reply: %v", r)
				}
				return
			}
			if r == nil || r.Rcode != c.rcode || !r.Response || r.Id != 0x1234 || len(r.Answer) > 0 {
				t.Fatalf("reply %v, want %s", r, rcodeName(c.rcode))
			}
			if len(e) != 1 || e[0].Verdict != "deny" || !e[0].Structural || e[0].Reason == "" {
				t.Fatalf("events %+v", e)
			}
		})
	}
}

// D12: what is well-formed is judged by the exact name.
func TestD12ExactName(t *testing.T) {
	for name, rcode := range map[string]int{
		"API.Allowed.TEST.":           dns.RcodeSuccess,
		"api.allowed.test.":           dns.RcodeSuccess,
		"api.allowed.test.evil.test.": dns.RcodeNameError,
		"evilallowed.test.":           dns.RcodeNameError,
		"xapi.allowed.test.":          dns.RcodeNameError,
		"allowed.test.":               dns.RcodeNameError,
		"_api.allowed.test.":          dns.RcodeNameError,
		"xn--pi-7kc.allowed.test.":    dns.RcodeNameError, // a Cyrillic homograph
		".":                           dns.RcodeNameError,
	} {
		l := newLab(t, fakeRules(1, "api.allowed.test", ""))
		l.zone.put("api.allowed.test. A", "api.allowed.test. 60 IN A 93.184.216.34")
		if r := l.ask(name, dns.TypeA); r.Rcode != rcode {
			t.Errorf("%s: %s, want %s", name, rcodeName(r.Rcode), rcodeName(rcode))
		}
		if rcode != dns.RcodeSuccess && l.zone.count() != 0 {
			t.Errorf("%s reached the upstream", name)
		}
	}
}

func TestNormalize(t *testing.T) {
	for in, want := range map[string]string{
		"A.Test.": "a.test", "a.test": "a.test", "_x.a-b.test": "_x.a-b.test",
		"": "", ".": "", "a..test": "", ".a": "", "a.test..": "", "a b": "", "a\x00b": "", "ä.test": "", "a/b": "",
		"[::1]": "", "a:1": "", strings.Repeat("a", 64): "", strings.Repeat("a.", 128): "",
		strings.Repeat("a", 63) + ".test": strings.Repeat("a", 63) + ".test",
	} {
		got, ok := Normalize(in)
		if got != want || ok != (want != "") {
			t.Errorf("Normalize(%q) = %q %v", in, got, ok)
		}
	}
}

// FuzzQuery: whatever is accepted is one plain question, and miekg's parser,
// an independent reader, agrees about it.
func FuzzQuery(f *testing.F) {
	f.Add(raw(1, 1, "api", "allowed", "test"))
	b, _ := query("api.allowed.test.", dns.TypeHTTPS).Pack()
	f.Add(b)
	f.Add(raw(1, 1, "a.b"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		q, err := parseQuery(msg)
		if err != nil {
			var r *refusal
			if errors.As(err, &r) && bare(&q, r.rcode) == nil {
				t.Fatal("a refusal without an answer")
			}
			return
		}
		m := new(dns.Msg)
		if err := m.Unpack(msg); err != nil {
			t.Fatalf("accepted what miekg/dns refuses: %v", err)
		}
		if len(m.Question) != 1 || m.Question[0].Name != q.wire || m.Question[0].Qtype != q.qtype || m.Id != q.id {
			t.Fatalf("read differently: %+v, %+v", q, m.Question)
		}
		if n, ok := Normalize(q.wire); q.name != "." && (!ok || n != q.name) {
			t.Fatalf("name %q is not normal", q.name)
		}
		if a := compose(cacheKey{q.name, q.qtype}, true); len(a.wire) == 0 || len(a.wire) > 300 {
			t.Fatalf("cannot be asked: %d bytes", len(a.wire))
		}
		out := reply(&q, "udp", &result{rcode: dns.RcodeNameError, soa: ownSOA(5), ede: edeBlocked, edeText: strings.Repeat("é", 500)})
		if len(out) > MaxUDPReply || new(dns.Msg).Unpack(out) != nil {
			t.Fatalf("bad reply %x", out)
		}
	})
}
