package dnsfilter

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// The name whose IPv4 addresses everyone knows; in a network with NAT64 its
// resolvers synthesise IPv6 ones, which show the prefix (RFC 7050).
const ipv4Only = "ipv4only.arpa"

var ipv4OnlyAddrs = [][4]byte{{192, 0, 0, 170}, {192, 0, 0, 171}}

// nat64Again is how long a failed discovery is not repeated, so that a resolver
// that is silent about it does not slow down every answer.
const nat64Again = time.Minute

// nat64Wait bounds how long an answer waits for the discovery.
const nat64Wait = 2 * time.Second

// MaxNAT64 bounds the prefixes that one answer can name.
const MaxNAT64 = 8

// nat64 is what is known of this network's translators.
type nat64 struct {
	mu       sync.Mutex
	prefixes []netip.Prefix
	failed   time.Time
}

// NAT64 returns the prefixes that LearnNAT64 has found, which policy.Host
// needs: an address below one of them leads to an IPv4 address.
func (f *Filter) NAT64() []netip.Prefix {
	f.nat64.mu.Lock()
	defer f.nat64.mu.Unlock()
	return f.nat64.prefixes
}

// LearnNAT64 asks for the network's NAT64 prefixes, unless they are known and
// the answer still holds. It is done before an IPv6 address of an answer is
// judged, and by those who judge addresses without an answer. When nobody
// answers, what was known stays.
func (f *Filter) LearnNAT64(ctx context.Context) {
	if !f.cfg.IPv6 || f.synth != nil || len(f.cfg.Upstreams) == 0 {
		return
	}
	f.nat64.mu.Lock()
	wait := f.clock().Sub(f.nat64.failed) < nat64Again
	f.nat64.mu.Unlock()
	if wait {
		return
	}
	if f.cache.get(cacheKey{ipv4Only, typeAAAA}) != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, nat64Wait)
	defer cancel()
	done := make(chan struct{})
	go func() { // ends with the exchange, which Close ends
		defer close(done)
		f.discoverNAT64()
	}()
	select {
	case <-done:
	case <-ctx.Done():
		f.nat64.mu.Lock()
		f.nat64.failed = f.clock()
		f.nat64.mu.Unlock()
	}
}

func (f *Filter) discoverNAT64() {
	k := cacheKey{ipv4Only, typeAAAA}
	d, err := f.up.lookup(f.stopped, k, func(d *data) { f.cache.put(k, d) })
	f.nat64.mu.Lock()
	defer f.nat64.mu.Unlock()
	if err != nil || d.ttl <= 0 {
		f.nat64.failed = f.clock()
	}
	if err == nil {
		f.nat64.prefixes = nat64Prefixes(addrsOf(d.rrs))
	}
}

// nat64Prefixes reads the prefixes out of the answer for ipv4Only: wherever the
// known address stands in one of the six layouts (RFC 6052 section 2.2).
func nat64Prefixes(addrs []netip.Addr) (out []netip.Prefix) {
	for _, a := range addrs {
		if !a.Is6() {
			continue
		}
		b := a.As16()
		for _, bits := range []int{96, 64, 56, 48, 40, 32} {
			if !slices.Contains(ipv4OnlyAddrs, layout(b, bits/8)) {
				continue
			}
			if p := netip.PrefixFrom(a, bits).Masked(); !slices.Contains(out, p) && len(out) < MaxNAT64 {
				out = append(out, p)
			}
		}
	}
	return out
}

// layout returns the four octets behind a prefix of n octets, octet 8 left out.
func layout(b [16]byte, n int) (v4 [4]byte) {
	for i := range v4 {
		if n == 8 {
			n++
		}
		v4[i] = b[n]
		n++
	}
	return v4
}
