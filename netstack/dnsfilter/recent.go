package dnsfilter

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"outcall/policy"
)

// recentKey is what makes two messages one attempt (contract 7): the DNS id,
// name, type and socket.
type recentKey struct {
	src   netip.AddrPort
	proto policy.Proto
	id    uint16
	name  string
	qtype uint16
}

type attempt struct {
	id   string
	at   time.Time
	mu   sync.Mutex
	told []string // the verdicts that have been written
}

// recent joins retransmissions with their first question.
type recent struct {
	clock func() time.Time

	mu    sync.Mutex
	byKey map[recentKey]*attempt
	order []recentKey // a ring, oldest at next
	next  int
}

func newRecent(clock func() time.Time) *recent {
	return &recent{clock: clock, byKey: map[recentKey]*attempt{}}
}

// join returns the id of the attempt that a question belongs to, and a
// function that says whether a verdict of it has been written already. A
// verdict that differs from those is written, too: it has another effect.
func (r *recent) join(k recentKey) (id string, told func(string) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.byKey[k]
	if a == nil || r.clock().Sub(a.at) > JoinFor {
		if a == nil {
			r.push(k)
		}
		a = &attempt{id: newID(), at: r.clock()}
		r.byKey[k] = a
	}
	return a.id, func(verdict string) bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		if slices.Contains(a.told, verdict) {
			return true
		}
		a.told = append(a.told, verdict)
		return false
	}
}

// push takes a place in the ring; beyond MaxJoined the oldest is forgotten.
func (r *recent) push(k recentKey) {
	if len(r.order) < MaxJoined {
		r.order = append(r.order, k)
		return
	}
	delete(r.byKey, r.order[r.next])
	r.order[r.next] = k
	r.next = (r.next + 1) % MaxJoined
}
