package dnsfilter

import (
	"fmt"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// digest takes from a matched reply what answers the question: the CNAME
// chain from its name, the records of its type at the end of that, or the SOA
// that bounds a negative answer. All else in the reply is ignored.
func digest(k cacheKey, m *dns.Msg) (*data, error) {
	switch m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
	default:
		return nil, fmt.Errorf("%w: %s", ErrUpstream, rcodeName(m.Rcode))
	}
	d := &data{rcode: m.Rcode}
	ttl := uint32(MaxTTL / time.Second)
	owner := k.name
	for {
		rrs := recordsAt(m.Answer, owner, k.qtype)
		if len(rrs) > 0 {
			if m.Rcode != dns.RcodeSuccess {
				return nil, fmt.Errorf("%w: records in a negative answer", ErrUpstream)
			}
			for _, rr := range rrs {
				ttl = min(ttl, rr.Header().Ttl)
			}
			d.rrs, d.ttl = rrs, seconds(ttl)
			return d, nil
		}
		link, err := cnameAt(m.Answer, owner)
		if err != nil {
			return nil, err
		}
		if link == nil {
			break
		}
		ttl = min(ttl, link.Hdr.Ttl)
		next, ok := Normalize(link.Target)
		if !ok || len(d.chain) == MaxChain {
			return nil, fmt.Errorf("%w: a CNAME chain that cannot be followed", ErrUpstream)
		}
		d.chain = append(d.chain, next)
		owner = next
	}
	d.negative(m, owner, ttl)
	return d, nil
}

// recordsAt returns the records of one type at one owner, at most MaxRecords.
func recordsAt(rrs []dns.RR, owner string, qtype uint16) (out []dns.RR) {
	for _, rr := range rrs {
		h := rr.Header()
		if h.Rrtype == qtype && h.Class == dns.ClassINET && sameName(h.Name, owner) && len(out) < MaxRecords {
			out = append(out, rr)
		}
	}
	return out
}

// cnameAt returns the CNAME of an owner; two different ones cannot be
// followed in only one way.
func cnameAt(rrs []dns.RR, owner string) (*dns.CNAME, error) {
	var found *dns.CNAME
	for _, rr := range rrs {
		c, ok := rr.(*dns.CNAME)
		if !ok || c.Hdr.Class != dns.ClassINET || !sameName(c.Hdr.Name, owner) {
			continue
		}
		if found != nil && !strings.EqualFold(found.Target, c.Target) {
			return nil, fmt.Errorf("%w: two CNAMEs at one name", ErrUpstream)
		}
		found = c
	}
	return found, nil
}

// negative fills in NODATA or NXDOMAIN. Without an SOA such an answer is not
// to be cached (RFC 2308, 5).
func (d *data) negative(m *dns.Msg, owner string, ttl uint32) {
	for _, rr := range m.Ns {
		soa, ok := rr.(*dns.SOA)
		if !ok || soa.Hdr.Class != dns.ClassINET {
			continue
		}
		if zone, ok := Normalize(soa.Hdr.Name); soa.Hdr.Name != "." && (!ok || !below(owner, zone)) {
			continue
		}
		d.soa = soa
		d.ttl = seconds(min(ttl, soa.Hdr.Ttl, soa.Minttl))
		return
	}
}

func seconds(n uint32) time.Duration { return time.Duration(n) * time.Second }

// sameName compares a name of a record with a normalised one.
func sameName(wire, name string) bool {
	if name == "." {
		return wire == "."
	}
	return len(wire) == len(name)+1 && wire[len(name)] == '.' && strings.EqualFold(wire[:len(name)], name)
}

func rcodeName(rcode int) string {
	if s, ok := dns.RcodeToString[rcode]; ok {
		return s
	}
	return fmt.Sprintf("RCODE%d", rcode)
}
