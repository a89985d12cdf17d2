package agentapi

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"outcall/policy"
)

// MaxDenials bounds the denials that are kept of a session: the oldest goes.
const MaxDenials = 256

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

// Statuses of a request. Only the operator's side changes them.
const (
	Pending  = "pending"
	Approved = "approved"
	Rejected = "rejected"
	Expired  = "expired" // it was approved for a time, which is up
)

// A Request is a rule file that the agent proposes.
type Request struct {
	ID     string
	Status string
	Reason string // of the operator, "" where none was given
	Time   time.Time
	File   string
}

// A Store keeps the rule files that the agent proposes. Its methods are called
// concurrently, and each returns when ctx ends.
type Store interface {
	// Find returns the request that has this very text and waits, is in force
	// or was rejected: asking twice is asking once.
	Find(ctx context.Context, file string) (Request, bool, error)
	Get(ctx context.Context, id string) (Request, bool, error)
	// Add keeps a new request. Where the text has one by now, that is returned.
	// A store that is full is ErrFull.
	Add(ctx context.Context, r Request) (Request, error)
}

// ErrFull says that too many requests wait for the operator: what waits is
// not lost for a new one.
var ErrFull = errors.New("rule request capacity reached")
