package audit

import (
	"slices"
	"time"

	"outcall/policy"
)

const (
	// MaxLines bounds the lines of a second. Denials and allows share it, and
	// neither can take more than MaxClass, so that a flood of one does not hide
	// the other; the rest is for limits, of which a flood reaches some and must
	// not hide any, and for the writer's own lines and the session's.
	MaxLines     = 1000
	MaxClass     = 700
	limitLines   = 20
	controlLines = 50

	// MaxBytes is a session's budget on disk. Denials may fill half of it, and
	// nothing but the session's own lines fills the last part.
	MaxBytes    = 256 << 20
	reservePart = 256 // MaxBytes / reservePart is the reserve

	// window is how long equal denials are summed.
	window = time.Second
	// fullWindow is how often overflow lines come when the disk's budget is
	// spent.
	fullWindow = 10 * time.Minute
	// maxLayers bounds the layers that overflow is counted for.
	maxLayers = 16
)

// A class says which budget a line is from.
type class uint8

const (
	control class = iota // start, stop, policy, overflow: ours, and rare
	denied               // deny, would_deny
	limits               // limit
	allowed              // allow, end
	classes
)

func classOf(e *policy.Event) class {
	switch {
	case e.Event == "verdict" && e.Verdict != "allow":
		return denied
	case e.Event == "limit":
		return limits
	case e.Event == "verdict", e.Event == "end":
		return allowed
	}
	return control
}

// weight is how many events a line stands for.
func weight(e *policy.Event) uint64 { return uint64(max(e.Count, 1)) }

// A key says which denials are equal: all but id, time, pid and arguments.
type key struct {
	event, session, agent, layer, verdict, rule, reason string
	structural                                          bool
	query, recordType, host, ip                         string
	port                                                uint16
	protocol, method, path, sni, exe, via               string
}

func keyOf(e *policy.Event) key {
	k := key{e.Event, e.Session, e.Agent, e.Layer, e.Verdict, e.Rule, e.Reason, e.Structural, e.Query, e.RecordType,
		e.Host, e.IP, e.Port, e.Protocol, e.Method, e.Path, e.SNI, "", e.Via}
	if e.Process != nil {
		k.exe = e.Process.Exe
	}
	return k
}

// A sum gathers the denials that equal one that was written.
type sum struct {
	key   key
	first policy.Event // the first that was not written
	count uint64
	until time.Time
}

// A budget decides what becomes a line and counts what does not. Only lines
// that were written open a sum, so there are never more sums than lines in
// two windows.
type budget struct {
	maxBytes int64
	used     [classes]int64 // bytes, of the session
	second   time.Time
	lines    [classes]int // of this second
	sums     map[key]*sum
	queue    []*sum // by until
	over     map[string]*policy.Event
	overAt   time.Time // when the counts of over are due
}

func newBudget(maxBytes int64) budget {
	return budget{maxBytes: maxBytes, sums: map[key]*sum{}, over: map[string]*policy.Event{}}
}

func (b *budget) bytes() (n int64) {
	for _, u := range b.used {
		n += u
	}
	return n
}

// roll begins a new second where one is due.
func (b *budget) roll(now time.Time) {
	if d := now.Sub(b.second); d >= time.Second || d < 0 {
		b.second, b.lines = now, [classes]int{}
	}
}

// lineLeft says whether a line of a class may be written in this second.
func (b *budget) lineLeft(c class) bool {
	switch c {
	case control:
		return b.lines[control] < controlLines
	case limits:
		return b.lines[limits] < limitLines
	}
	return b.lines[c] < MaxClass && b.lines[denied]+b.lines[allowed] < MaxLines-controlLines-limitLines
}

// spaceLeft says whether the session's budget has room for a line of a class.
func (b *budget) spaceLeft(c class) bool {
	total := b.bytes()
	switch c {
	case denied, limits:
		return b.used[denied]+b.used[limits] < b.maxBytes/2 && total < b.maxBytes-b.maxBytes/reservePart
	case allowed:
		return total < b.maxBytes-b.maxBytes/reservePart
	}
	return total < b.maxBytes
}

// summed counts an event that equals a denial that was just written.
func (b *budget) summed(e *policy.Event) bool {
	s := b.sums[keyOf(e)]
	if s == nil {
		return false
	}
	if s.count == 0 {
		s.first = *e
	}
	s.count += weight(e)
	return true
}

// open begins to sum what equals a denial that was just written.
func (b *budget) open(e *policy.Event, now time.Time) {
	s := &sum{key: keyOf(e), until: now.Add(window)}
	b.sums[s.key] = s
	b.queue = append(b.queue, s)
}

// due takes out the sums whose window is over. One that counted something
// stays open for another window: a flood gives one line a second.
func (b *budget) due(now time.Time) []policy.Event {
	var out []policy.Event
	for len(b.queue) > 0 && !b.queue[0].until.After(now) {
		s := b.queue[0]
		b.queue = b.queue[1:]
		if s.count == 0 {
			delete(b.sums, s.key)
			continue
		}
		e := s.first
		e.Count = int(s.count)
		out = append(out, e)
		s.count, s.until = 0, now.Add(window)
		b.queue = append(b.queue, s)
	}
	return out
}

// overflow counts an event that does not become a line.
func (b *budget) overflow(e *policy.Event, now time.Time) {
	layer := e.Layer
	if b.over[layer] == nil && len(b.over) >= maxLayers {
		layer = ""
	}
	if len(b.over) == 0 {
		b.overAt = b.second.Add(time.Second)
		if !b.spaceLeft(denied) {
			b.overAt = now.Add(fullWindow)
		}
	}
	o := b.over[layer]
	if o == nil {
		o = &policy.Event{Event: "overflow", Layer: layer, Session: e.Session, Agent: e.Agent}
		b.over[layer] = o
	}
	o.Count += int(weight(e))
	o.BytesIn += e.BytesIn
	o.BytesOut += e.BytesOut
}

// overflows takes out what was counted, if it is due.
func (b *budget) overflows(now time.Time, all bool) []policy.Event {
	if len(b.over) == 0 || !all && now.Before(b.overAt) {
		return nil
	}
	var out []policy.Event
	for _, o := range b.over {
		out = append(out, *o)
	}
	slices.SortFunc(out, func(x, y policy.Event) int {
		if x.Layer < y.Layer {
			return -1
		}
		return 1
	})
	clear(b.over)
	return out
}

// next returns when something is due; zero is never.
func (b *budget) next() time.Time {
	var t time.Time
	if len(b.queue) > 0 {
		t = b.queue[0].until
	}
	if len(b.over) > 0 && (t.IsZero() || b.overAt.Before(t)) {
		t = b.overAt
	}
	return t
}
