package audit

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"outcall/policy"
)

// A memory is a disk that can be told to fail or to wait.
type memory struct {
	mu    sync.Mutex
	b     bytes.Buffer
	fail  error
	part  int // bytes that are written before it fails
	block chan struct{}
}

func (m *memory) Write(p []byte) (int, error) {
	m.mu.Lock()
	block := m.block
	m.mu.Unlock()
	if block != nil {
		<-block
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		n := min(m.part, len(p))
		m.b.Write(p[:n])
		return n, m.fail
	}
	return m.b.Write(p)
}

func (m *memory) Truncate(n int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.b.Truncate(int(n))
	return nil
}
func (m *memory) Sync() error  { return nil }
func (m *memory) Close() error { return nil }

func (m *memory) size() int { m.mu.Lock(); defer m.mu.Unlock(); return m.b.Len() }

func (m *memory) events(t testing.TB) []policy.Event {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []policy.Event
	err := Read(bytes.NewReader(m.b.Bytes()), func(_ []byte, e policy.Event) error { out = append(out, e); return nil })
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return out
}

func (m *memory) verify(t testing.TB, head string) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if n, err := Verify(bytes.NewReader(m.b.Bytes()), head); n != 0 || err != nil {
		t.Errorf("verify: line %d: %v", n, err)
	}
}

func deny(name string) policy.Event {
	return policy.Event{Event: "verdict", Layer: "dns", Verdict: "deny", Rule: policy.DefaultPolicy, Query: name, ID: "d-0"}
}

func allow(name string) policy.Event {
	return policy.Event{Event: "verdict", Layer: "dns", Verdict: "allow", Rule: "a", Query: name, ID: "d-1"}
}

func total(es []policy.Event, layer string) (n uint64) {
	for _, e := range es {
		if e.Layer == layer {
			n += weight(&e)
		}
	}
	return n
}

// The first denial stands at once, equal ones come as one line a second.
func TestEqualDenials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		w := newWriter(Options{Session: "s", Agent: "a"}, m)
		for range 100 {
			w.Record(deny("evil.test"))
		}
		w.Record(deny("other.test"))
		synctest.Wait()
		es := m.events(t)
		if len(es) != 2 || es[0].Count != 0 || es[0].Session != "s" || es[0].Agent != "a" || es[0].Prev != Genesis || es[0].Seq != 1 {
			t.Fatalf("at once: %+v", es)
		}
		time.Sleep(window) // virtual
		synctest.Wait()
		if es = m.events(t); len(es) != 3 || es[2].Count != 99 || es[2].Query != "evil.test" || es[2].Seq != 101 {
			t.Fatalf("after a second: %+v", es)
		}
		time.Sleep(10 * window)
		w.Record(deny("evil.test"))
		synctest.Wait()
		if es = m.events(t); len(es) != 4 || es[3].Count != 0 {
			t.Fatalf("after a pause: %+v", es)
		}
		for range 5 {
			w.Record(deny("evil.test"))
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if es = m.events(t); len(es) != 5 || es[4].Count != 5 {
			t.Errorf("at the end: %+v", es)
		}
		m.verify(t, w.Head())
		w.Record(deny("late.test"))
		if s := w.Summary(); s.Total != 107 || s.Top[0].Target != "evil.test" || s.Top[0].Count != 106 {
			t.Errorf("summary: %+v", s)
		}
	})
}

// Allows are never summed: each has its line.
func TestEveryAllowHasItsLine(t *testing.T) {
	m := &memory{}
	w := newWriter(Options{}, m)
	for range 50 {
		w.Record(allow("a.test"))
	}
	if es := m.events(t); len(es) != 50 {
		t.Errorf("%d lines on disk when Record has returned, want 50", len(es))
	}
	w.Close()
	m.verify(t, w.Head())
}

// K17: ever new names at 50,000 a second, for four seconds. The lines stay
// within the budget, the counts add up, an allow in the middle is there.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		w := newWriter(Options{}, m)
		const seconds, rate = 4, 50000
		args := []string{strings.Repeat("x", 2<<20)}
		for i := range seconds * rate {
			e := deny(fmt.Sprintf("n%d.evil.test", i))
			e.Process = &policy.Process{PID: 1, Exe: "/bin/x", Args: args}
			w.Record(e)
			if i%(rate/2) == rate/4 {
				w.Record(allow("good.test"))
			}
			if i%500 == 499 {
				time.Sleep(time.Second / (rate / 500))
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		es := m.events(t)
		allows := 0
		for _, e := range es {
			if e.Verdict == "allow" {
				allows++
			}
		}
		if allows != 2*seconds {
			t.Errorf("%d allows, want %d", allows, 2*seconds)
		}
		if n := total(es, "dns"); n != seconds*rate+2*seconds {
			t.Errorf("the counts add up to %d, want %d", n, seconds*rate+2*seconds)
		}
		if most := MaxLines * (seconds + 1); len(es) > most || len(es) < MaxClass*seconds {
			t.Errorf("%d lines in %d seconds, at most %d", len(es), seconds, most)
		}
		if n := m.size(); n > 20<<20 {
			t.Errorf("%d bytes", n)
		}
		m.verify(t, w.Head())
	})
}

// A flood of allows does not hide a denial either.
func TestAllowFlood(t *testing.T) {
	m := &memory{}
	w := newWriter(Options{}, m)
	for range 2000 {
		w.Record(policy.Event{Event: "end", Layer: "flow", BytesIn: 3})
	}
	w.Record(deny("evil.test"))
	w.Close()
	es := m.events(t)
	found, in := false, int64(0)
	for _, e := range es {
		found = found || e.Query == "evil.test"
		in += e.BytesIn
	}
	if !found || total(es, "flow") != 2000 || in != 6000 {
		t.Errorf("found %v, %d events, %d bytes", found, total(es, "flow"), in)
	}
	m.verify(t, w.Head())
}

// With the budget spent, denials are only counted while allows still have
// their lines; then those are, too; and the file stays below its budget.
func TestSpaceBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		const maxBytes = 1 << 20
		w := newWriter(Options{MaxBytes: maxBytes}, m)
		n := 0
		for i := range 20 {
			for j := range 500 {
				w.Record(deny(fmt.Sprintf("n%d-%d.evil.test", i, j)))
				w.Record(allow("good.test"))
				n += 2
			}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		size := m.size()
		w.Record(policy.Event{Event: "stop"})
		w.Close()
		if size > maxBytes || size < maxBytes*9/10 {
			t.Errorf("%d bytes of %d", size, maxBytes)
		}
		es := m.events(t)
		if got := total(es, "dns"); got != uint64(n) {
			t.Errorf("the counts add up to %d, want %d", got, n)
		}
		last := map[string]int{}
		limits := 0
		for i, e := range es {
			last[e.Verdict] = i
			if e.Event == "limit" {
				limits++
			}
		}
		if last["deny"] > last["allow"] || limits != 2 {
			t.Errorf("last deny at %d, last allow at %d, %d limit lines, want 2", last["deny"], last["allow"], limits)
		}
		found := false
		for _, e := range es {
			found = found || e.Event == "stop"
		}
		if !found {
			t.Error("the session's end has no line")
		}
		m.verify(t, w.Head())
	})
}

func TestFollow(t *testing.T) {
	m := &memory{}
	w := newWriter(Options{}, m)
	quick, err := w.Follow()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var got bytes.Buffer
	wg.Go(func() {
		for line := range quick.C {
			got.Write(line)
		}
	})
	for i := range 300 {
		w.Record(allow(fmt.Sprint(i)))
	}
	w.Close()
	wg.Wait()
	if !bytes.Equal(got.Bytes(), m.b.Bytes()) {
		t.Errorf("followed %d bytes, written %d", got.Len(), m.b.Len())
	}
	if f, err := w.Follow(); err != nil {
		t.Error(err)
	} else if _, open := <-f.C; open {
		t.Error("a closed record has lines to follow")
	}
}

// Lines that wait for a slow disk are not in the file yet: a follower gets them
// first, each once, whether they are with the disk or behind, also when the
// record has been closed meanwhile.
func TestFollowFromASlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{block: make(chan struct{})}
		w := newWriter(Options{}, m)
		read := func(f *Follower) (names []string) {
			for line := range f.C {
				e, err := Decode(bytes.TrimSuffix(line, []byte("\n")))
				if err != nil {
					t.Error(err)
				}
				names = append(names, e.Query)
			}
			return names
		}
		w.Record(allow("flying.test"))
		synctest.Wait()
		const behind = 100
		for i := range behind {
			w.Record(allow(fmt.Sprint(i)))
		}
		open, err := w.Follow()
		if err != nil {
			t.Fatal(err)
		}
		w.Record(allow("after.test"))
		go w.Close()
		synctest.Wait()
		closed, err := w.Follow()
		if err != nil {
			t.Fatal(err)
		}
		for what, f := range map[string]*Follower{"open": open, "closed": closed} {
			names := read(f)
			if len(names) != behind+2 || names[0] != "flying.test" || names[1] != "0" || names[behind] != fmt.Sprint(behind-1) || names[behind+1] != "after.test" {
				t.Errorf("%s: %d lines: %q", what, len(names), names)
			}
		}
		close(m.block)
		w.Close()
		if es := m.events(t); len(es) != behind+2 {
			t.Errorf("%d lines on disk", len(es))
		}
		if f, err := w.Follow(); err != nil {
			t.Error(err)
		} else if names := read(f); len(names) != 0 {
			t.Errorf("all is in the file, and yet %q waits", names)
		}
	})
}

func TestFollowBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(Options{}, &memory{})
		slow, err := w.Follow()
		if err != nil {
			t.Fatal(err)
		}
		var others []*Follower
		for range MaxFollowers - 1 {
			f, err := w.Follow()
			if err != nil {
				t.Fatal(err)
			}
			others = append(others, f)
		}
		if _, err := w.Follow(); !errors.Is(err, ErrFollowers) {
			t.Errorf("one more: %v", err)
		}
		for _, f := range others {
			f.Close()
			f.Close()
		}
		for i := range followLines + 10 {
			w.Record(allow(fmt.Sprint(i)))
			if i%500 == 0 {
				time.Sleep(time.Second)
			}
		}
		n, last := 0, []byte(nil)
		for line := range slow.C {
			n, last = n+1, line
		}
		if n != followLines+1 || !bytes.Equal(last, slowNote) {
			t.Errorf("%d lines, the last %s", n, last)
		}
		w.Close()
	})
}

func TestSummary(t *testing.T) {
	var s summary
	s.init()
	for i := range 10 * maxKinds {
		e := deny(fmt.Sprintf("flood-%d", i))
		s.add(&e)
		often := policy.Event{Event: "verdict", Verdict: "would_deny", Layer: "flow", IP: "2001:db8::1", Port: 22, Rule: "r", Reason: "why", ID: "d-7"}
		s.add(&often)
	}
	if len(s.kinds) > maxKinds {
		t.Errorf("%d kinds, at most %d", len(s.kinds), maxKinds)
	}
	got := s.summary()
	want := Denial{"would_deny", "flow", "[2001:db8::1]:22", "r", "why", "d-7", 10 * maxKinds, false, false}
	if len(got.Top) != TopDenials || got.Top[0] != want || got.Total != 20*maxKinds || got.Rest != got.Total-want.Count-TopDenials+1 {
		t.Errorf("%+v", got)
	}
}

func BenchmarkRecordAllow(b *testing.B) {
	w, err := Open(Options{Path: filepath.Join(b.TempDir(), "audit.jsonl")})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	e := allow("a.test")
	n := 0
	for b.Loop() {
		if n++; n%(MaxClass/2) == 0 { // stay within the lines of a second
			w.mu.Lock()
			w.b.lines = [classes]int{}
			w.mu.Unlock()
		}
		w.Record(e)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lines/s")
}

func BenchmarkRecordFlood(b *testing.B) {
	w, err := Open(Options{Path: filepath.Join(b.TempDir(), "audit.jsonl")})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	for b.Loop() {
		w.Record(deny("evil.test"))
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "denials/s")
}
