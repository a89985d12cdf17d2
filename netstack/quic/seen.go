package quic

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
)

// MaxSeen is how many ClientHellos a Seen remembers; the oldest is forgotten
// first.
const MaxSeen = 16384

// A Seen keeps the flows of a session from sharing a connection. Many servers
// find the connection by its ID alone, whatever address a packet comes from:
// the first half of one flow's ClientHello and the second half of another's,
// each harmless as a whole, could there become a third one. So a place in the
// stream of one connection ID has one message for all flows. Honest clients
// draw a random ID for each connection.
//
// It is safe for concurrent use.
type Seen struct {
	mu     sync.Mutex
	digest map[[16]byte][16]byte // place → message
	ring   [][16]byte            // the places, oldest at next once it is full
	next   int
}

// NewSeen returns one for a session.
func NewSeen() *Seen { return &Seen{digest: make(map[[16]byte][16]byte)} }

// claim reports whether msg is what stands, or now stands, at this place.
func (s *Seen) claim(id []byte, at int, msg []byte) bool {
	place := short(binary.BigEndian.AppendUint32(append([]byte{byte(len(id))}, id...), uint32(at)))
	sum := short(msg)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.digest[place]; ok {
		return old == sum
	}
	if len(s.ring) < MaxSeen {
		s.ring = append(s.ring, place)
	} else {
		delete(s.digest, s.ring[s.next])
		s.ring[s.next] = place
		s.next = (s.next + 1) % MaxSeen
	}
	s.digest[place] = sum
	return true
}

func short(b []byte) [16]byte {
	sum := sha256.Sum256(b)
	return [16]byte(sum[:])
}
