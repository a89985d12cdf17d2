package dnsfilter

import (
	"container/list"
	"encoding/binary"
	"net/netip"
	"sync"
)

// maxSynthetic is the number of names that keep their synthetic address. A
// name that is forgotten, the one asked longest ago first, gets another
// address the next time; its pins are not touched.
const maxSynthetic = 8192

// synthetic gives names addresses of their own where only an upstream proxy
// can resolve them. Such an address never leaves: it is pinned, and the flow
// to it is opened by name. An address is not given to a second name as long
// as the block has others, so that it never means two names.
type synthetic struct {
	first uint32 // the block's first address that is used
	size  uint32

	mu     sync.Mutex
	next   uint32
	byName map[string]*list.Element
	byAddr map[netip.Addr]bool
	order  list.List // of synthName, asked last first
}

type synthName struct {
	name string
	addr netip.Addr
}

// newSynthetic returns nil where the session has no such block.
func newSynthetic(p netip.Prefix) *synthetic {
	if !p.IsValid() || !p.Addr().Is4() || p.Bits() > 16 {
		return nil
	}
	base := p.Masked().Addr().As4()
	return &synthetic{
		first:  binary.BigEndian.Uint32(base[:]) + 1,
		size:   1<<(32-p.Bits()) - 2, // without the first and the last address
		byName: map[string]*list.Element{}, byAddr: map[netip.Addr]bool{},
	}
}

// of returns the address of a name, a new one if it has none.
func (s *synthetic) of(name string) netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if el := s.byName[name]; el != nil {
		s.order.MoveToFront(el)
		return el.Value.(synthName).addr
	}
	if s.order.Len() == maxSynthetic {
		old := s.order.Remove(s.order.Back()).(synthName)
		delete(s.byName, old.name)
		delete(s.byAddr, old.addr)
	}
	addr := s.fresh()
	s.byName[name] = s.order.PushFront(synthName{name, addr})
	s.byAddr[addr] = true
	return addr
}

// fresh returns the next address; the block is larger than maxSynthetic, so
// it finds one.
func (s *synthetic) fresh() netip.Addr {
	for {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], s.first+s.next)
		s.next = (s.next + 1) % s.size
		if a := netip.AddrFrom4(b); !s.byAddr[a] {
			return a
		}
	}
}

// has reports whether addr stands for name.
func (s *synthetic) has(name string, addr netip.Addr) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	el := s.byName[name]
	return el != nil && el.Value.(synthName).addr == addr
}
