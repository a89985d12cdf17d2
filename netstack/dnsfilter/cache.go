package dnsfilter

import (
	"container/list"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// data is what a source has for one question, not judged yet. It is shared
// and never changed.
type data struct {
	rcode  int
	chain  []string // CNAME targets on the way, as rules spell names
	rrs    []dns.RR // of the question's type, at the end of the chain
	soa    *dns.SOA // of a negative answer
	ttl    time.Duration
	born   time.Time // when ttl began
	server string    // upstream that answered, "" for our own data
}

// left returns what remains of the TTL.
func (d *data) left(now time.Time) time.Duration {
	return max(0, min(d.ttl-now.Sub(d.born), MaxTTL))
}

type cacheKey struct {
	name  string
	qtype uint16
}

type cacheEntry struct {
	cacheKey
	data *data
	size int
}

// cache holds upstream answers before any judging, so that a reload has
// nothing to flush: each use is judged anew.
type cache struct {
	clock func() time.Time

	mu                      sync.Mutex
	byKey                   map[cacheKey]*list.Element
	order                   list.List // of *cacheEntry, most recently used first
	bytes                   int
	hits, misses, evictions int64
}

func newCache(clock func() time.Time) *cache {
	return &cache{clock: clock, byKey: map[cacheKey]*list.Element{}}
}

func (c *cache) get(k cacheKey) *data {
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.byKey[k]
	if el == nil {
		c.misses++
		return nil
	}
	e := el.Value.(*cacheEntry)
	if e.data.left(c.clock()) <= 0 {
		c.remove(el)
		c.misses++
		return nil
	}
	c.hits++
	c.order.MoveToFront(el)
	return e.data
}

// put keeps d unless its TTL or its size forbid it.
func (c *cache) put(k cacheKey, d *data) {
	size := d.size() + len(k.name)
	if d.ttl <= 0 || size > CacheEntryBytes {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if el := c.byKey[k]; el != nil {
		c.remove(el)
	}
	c.byKey[k] = c.order.PushFront(&cacheEntry{k, d, size})
	c.bytes += size
	for c.order.Len() > CacheEntries || c.bytes > CacheBytes {
		c.remove(c.order.Back())
		c.evictions++
	}
}

func (c *cache) remove(el *list.Element) {
	e := c.order.Remove(el).(*cacheEntry)
	delete(c.byKey, e.cacheKey)
	c.bytes -= e.size
}

// flush empties the cache and returns how many entries it had.
func (c *cache) flush() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.order.Len()
	c.order.Init()
	clear(c.byKey)
	c.bytes = 0
	return n
}

// size estimates the memory of an answer.
func (d *data) size() int {
	const perRecord = 96 // header, pointers and allocator overhead
	n := perRecord
	for _, rr := range d.rrs {
		n += dns.Len(rr) + perRecord
	}
	for _, s := range d.chain {
		n += len(s) + 16
	}
	return n
}
