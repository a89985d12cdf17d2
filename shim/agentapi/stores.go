package agentapi

import (
	"errors"
	"slices"
	"sync"
	"time"

	"outcall/policy"
)

// Bounds of what is kept of a session.
const (
	MaxDenials  = 256 // the oldest goes
	MaxRequests = 64  // beyond it a request is refused: what waits for the operator is not lost
)

// Denials keeps the latest denials of a session.
type Denials struct {
	mu   sync.Mutex
	ring []policy.Event // the oldest first
}

// Add keeps an event if it is a denial.
func (d *Denials) Add(e policy.Event) {
	if e.Event != "verdict" || e.Verdict != "deny" || e.ID == "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.ring) == MaxDenials {
		d.ring = append(d.ring[:0], d.ring[1:]...)
	}
	d.ring = append(d.ring, e)
}

// After returns the denials later than a time, the oldest first.
func (d *Denials) After(t time.Time) []policy.Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.ring, func(e policy.Event) bool { return e.Time.After(t) })
	if i < 0 {
		return nil
	}
	return slices.Clone(d.ring[i:])
}

// ByID returns the latest denial of an id.
func (d *Denials) ByID(id string) (policy.Event, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := len(d.ring) - 1; i >= 0; i-- {
		if d.ring[i].ID == id {
			return d.ring[i], true
		}
	}
	return policy.Event{}, false
}

// Pending is the one status that a request has: the operator takes what is
// good into the rules.
const Pending = "pending"

// A Request is a rule file that the agent proposes.
type Request struct {
	ID     string    `json:"id"`
	Status string    `json:"status"`
	Time   time.Time `json:"time"`
	File   string    `json:"rule_file"`
}

// Requests keeps the rule files that an agent proposes, while its session
// lives.
type Requests struct {
	mu   sync.Mutex
	list []Request
}

var errFull = errors.New("rule request capacity reached")

// find returns the request with a text, if there is one: asking twice is
// asking once.
func (s *Requests) find(file string) (Request, bool) {
	return s.first(func(r Request) bool { return r.File == file })
}

// Get returns one request.
func (s *Requests) Get(id string) (Request, bool) {
	return s.first(func(r Request) bool { return r.ID == id })
}

func (s *Requests) first(match func(Request) bool) (Request, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.IndexFunc(s.list, match); i >= 0 {
		return s.list[i], true
	}
	return Request{}, false
}

// List returns all requests, the oldest first.
func (s *Requests) List() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

func (s *Requests) add(r Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) >= MaxRequests {
		return errFull
	}
	s.list = append(s.list, r)
	return nil
}
