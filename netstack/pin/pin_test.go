package pin

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"outcall/policy"
)

// fakeKernel is a map that refuses what the real interval map refuses:
// overlapping elements. A removal of what is absent is no error.
type fakeKernel struct {
	mu    sync.Mutex
	t     testing.TB
	cells map[policy.Cell]bool
	calls int
	fail  error // next calls fail
	onAdd func()
}

func (k *fakeKernel) AddPins(_ context.Context, cells []policy.Cell) error {
	if k.onAdd != nil {
		k.onAdd()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls++
	if k.fail != nil {
		return k.fail
	}
	for _, c := range cells {
		for o := range k.cells {
			if o != c && overlap(o, c) {
				k.t.Errorf("AddPins(%v) overlaps %v", c, o)
			}
		}
		k.cells[c] = true
	}
	return nil
}

func (k *fakeKernel) DelPins(_ context.Context, cells []policy.Cell) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls++
	if k.fail != nil {
		return k.fail
	}
	for _, c := range cells {
		delete(k.cells, c)
	}
	return nil
}

func (k *fakeKernel) set(err error) { k.mu.Lock(); k.fail = err; k.mu.Unlock() }

func (k *fakeKernel) ports(a netip.Addr) (out []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for c := range k.cells {
		if c.Prefix.Addr() == a {
			out = append(out, fmt.Sprintf("%s/%d-%d>%s", c.Proto, c.PortLow, c.PortHigh, c.Rule))
		}
	}
	slices.Sort(out)
	return out
}

func (k *fakeKernel) count() int { k.mu.Lock(); defer k.mu.Unlock(); return len(k.cells) }

var (
	a1 = netip.MustParseAddr("93.184.216.34")
	a2 = netip.MustParseAddr("93.184.216.35")
	a6 = netip.MustParseAddr("2606:2800:220:1::1")
)

type span struct{ lo, hi uint16 }

// rulesOf makes Cells from a table of names.
func rulesOf(spans map[string][]span) func(string, netip.Addr, []policy.Grant) []policy.Cell {
	return func(name string, a netip.Addr, g []policy.Grant) (out []policy.Cell) {
		p := netip.PrefixFrom(a, a.BitLen())
		for _, s := range spans[name] {
			out = append(out, policy.Cell{Prefix: p, Proto: policy.TCP, PortLow: s.lo, PortHigh: s.hi, Rule: "r-" + name})
		}
		for _, x := range g {
			out = append(out, policy.Cell{Prefix: p, Proto: x.Proto, PortLow: x.Port, PortHigh: x.Port, Rule: x.Rule})
		}
		return out
	}
}

type fixture struct {
	*Table
	k   *fakeKernel
	mu  sync.Mutex
	now time.Time
}

func (f *fixture) clock() time.Time        { f.mu.Lock(); defer f.mu.Unlock(); return f.now }
func (f *fixture) advance(d time.Duration) { f.mu.Lock(); f.now = f.now.Add(d); f.mu.Unlock() }

func newFixture(t testing.TB, max int, spans map[string][]span) *fixture {
	f := &fixture{k: &fakeKernel{t: t, cells: map[policy.Cell]bool{}}, now: time.Unix(1e9, 0)}
	f.Table = New(Options{
		Kernel: f.k, Max: max, Clock: f.clock, Generation: 1, Cells: rulesOf(spans),
	})
	return f
}

func bind(gen uint64, name string, ttl time.Duration, addrs ...netip.Addr) Binding {
	b := Binding{Generation: gen, Name: name, TTL: ttl}
	for _, a := range addrs {
		b.Addrs = append(b.Addrs, Addr{Addr: a})
	}
	return b
}

func (f *fixture) add(t testing.TB, b Binding) {
	t.Helper()
	if err := f.Add(context.Background(), b); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) names(a netip.Addr) (out []string) {
	for _, c := range f.Candidates(a) {
		out = append(out, c.Name)
	}
	return out
}

func (f *fixture) wantNames(t *testing.T, a netip.Addr, want ...string) {
	t.Helper()
	if got := f.names(a); !slices.Equal(got, want) {
		t.Fatalf("candidates of %v = %v, want %v", a, got, want)
	}
}

func (f *fixture) wantPorts(t *testing.T, a netip.Addr, want ...string) {
	t.Helper()
	if got := f.k.ports(a); !slices.Equal(got, want) {
		t.Fatalf("kernel at %v = %v, want %v", a, got, want)
	}
}

var https = map[string][]span{"a.test": {{443, 443}}, "b.test": {{443, 443}, {80, 80}}, "any.test": {{1, 65535}}}

func TestKernelBeforeVisible(t *testing.T) {
	f := newFixture(t, 0, https)
	f.k.onAdd = func() { f.wantNames(t, a1) }
	f.add(t, bind(1, "a.test", 0, a1))
	f.k.onAdd = nil
	f.wantNames(t, a1, "a.test")
	f.wantPorts(t, a1, "tcp/443-443>r-a.test")
	if f.Live("a.test", a2) || !f.Live("a.test", netip.MustParseAddr("::ffff:93.184.216.34")) {
		t.Fatal("Live is wrong about an address")
	}
}

func TestKernelRefusesNothingVisible(t *testing.T) {
	f := newFixture(t, 0, https)
	f.k.set(errors.New("no buffer space"))
	if err := f.Add(context.Background(), bind(1, "a.test", 0, a1, a2)); err == nil {
		t.Fatal("Add succeeded although the kernel refused")
	}
	f.wantNames(t, a1)
	f.k.set(nil)
	// The address is doubtful now: the next change puts it right.
	f.add(t, bind(1, "b.test", 0, a1))
	f.wantPorts(t, a1, "tcp/443-443>r-b.test", "tcp/80-80>r-b.test")
	if err := f.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	f.wantPorts(t, a2)
}

func TestCandidatesLastResolvedFirst(t *testing.T) {
	f := newFixture(t, 0, https)
	f.add(t, bind(1, "a.test", 0, a1))
	f.add(t, bind(1, "b.test", 0, a1))
	f.wantNames(t, a1, "b.test", "a.test")
	calls := f.k.calls
	f.add(t, bind(1, "a.test", 0, a1))
	f.wantNames(t, a1, "a.test", "b.test")
	if f.k.calls != calls {
		t.Fatal("a renewal asked the kernel")
	}
}

func TestExpiry(t *testing.T) {
	for _, c := range []struct {
		ttl, life time.Duration
	}{{0, MinLife + Grace}, {60 * time.Second, MinLife + Grace}, {time.Hour, time.Hour + Grace}} {
		f := newFixture(t, 0, https)
		f.add(t, bind(1, "a.test", c.ttl, a1))
		f.advance(c.life - 1)
		f.wantNames(t, a1, "a.test")
		f.advance(1)
		f.wantNames(t, a1)
		if n := f.ExpiredNames(a1); !slices.Equal(n, []string{"a.test"}) {
			t.Fatalf("expired %q", n)
		}
		f.wantPorts(t, a1, "tcp/443-443>r-a.test") // lingers for flows just judged
		f.advance(Linger)
		if err := f.Sweep(context.Background()); err != nil {
			t.Fatal(err)
		}
		f.wantPorts(t, a1)
		if n := f.ExpiredNames(a1); !slices.Equal(n, []string{"a.test"}) || f.Len() != 0 {
			t.Fatalf("expired after the sweep: %q, %d pins", n, f.Len())
		}
		f.add(t, bind(1, "a.test", 0, a1))
		if n := f.ExpiredNames(a1); len(n) != 0 {
			t.Fatal("a live pin is still remembered as expired")
		}
	}
}

func TestHoldKeepsAlive(t *testing.T) {
	f := newFixture(t, 0, https)
	f.add(t, bind(1, "a.test", 0, a1))
	f.advance(MinLife + Grace) // expired, within Linger
	release := f.Hold("a.test", a1)
	f.wantNames(t, a1, "a.test")
	f.advance(24 * time.Hour)
	_ = f.Sweep(context.Background())
	f.wantNames(t, a1, "a.test")
	f.wantPorts(t, a1, "tcp/443-443>r-a.test")
	release()
	release()
	f.advance(Grace + Linger)
	_ = f.Sweep(context.Background())
	f.wantNames(t, a1)
	f.wantPorts(t, a1)
	f.Hold("a.test", a1)() // of nothing: no effect
}

func TestSharedAddressCells(t *testing.T) {
	f := newFixture(t, 0, https)
	f.add(t, bind(1, "a.test", time.Hour, a1))
	f.add(t, bind(1, "any.test", 0, a1))
	f.wantPorts(t, a1, "tcp/1-442>r-any.test", "tcp/443-443>r-a.test", "tcp/444-65535>r-any.test")
	f.advance(MinLife + Grace + Linger)
	if err := f.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	f.wantPorts(t, a1, "tcp/443-443>r-a.test")
	// The other way round: what the survivor needs of a shared cell stays.
	f = newFixture(t, 0, https)
	f.add(t, bind(1, "any.test", 0, a1))
	f.add(t, bind(1, "b.test", time.Hour, a1))
	f.wantPorts(t, a1, "tcp/1-65535>r-any.test")
	f.advance(MinLife + Grace + Linger)
	if err := f.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	f.wantPorts(t, a1, "tcp/443-443>r-b.test", "tcp/80-80>r-b.test")
}

func TestFullRefusesAndEvictsNothing(t *testing.T) {
	f := newFixture(t, 0, https)
	addr := netip.MustParseAddr("1.0.0.0")
	for range Max {
		f.add(t, bind(1, "a.test", 0, addr))
		addr = addr.Next()
	}
	err := f.Add(context.Background(), bind(1, "b.test", 0, a1))
	if !errors.Is(err, ErrFull) || f.Len() != Max {
		t.Fatalf("err %v, %d pins", err, f.Len())
	}
	f.wantNames(t, a1)
	f.wantPorts(t, a1)
	f.wantNames(t, netip.MustParseAddr("1.0.0.0"), "a.test")
	// Expired ones make room although no sweep has run, and are remembered,
	// the oldest forgotten first.
	f.advance(MinLife + Grace)
	f.add(t, bind(1, "b.test", 0, a1))
	if f.Len() != 1 {
		t.Fatalf("%d pins", f.Len())
	}
	f.advance(MinLife + Grace + Linger)
	_ = f.Sweep(context.Background())
	if n := f.ExpiredNames(netip.MustParseAddr("1.0.0.0")); len(n) != 0 {
		t.Fatal("the oldest expired pin is still remembered beyond the limit")
	}
	if n := f.ExpiredNames(a1); len(n) == 0 || n[0] != "b.test" || len(f.gone) != Remembered || f.order.Len() != Remembered {
		t.Fatalf("expired %q, %d remembered", n, len(f.gone))
	}
}

// A full table of live pins refuses without looking at each of them, and a
// pin that a flow let go makes room again.
func TestFullThenReleased(t *testing.T) {
	f := newFixture(t, 2, https)
	f.add(t, bind(1, "a.test", 0, a1))
	release := f.Hold("a.test", a1)
	f.advance(time.Hour)
	f.add(t, bind(1, "b.test", 24*time.Hour, a1))
	if err := f.Add(context.Background(), bind(1, "b.test", 0, a2)); !errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
	if f.anyExpired() {
		t.Fatal("a held pin makes every refusal expensive")
	}
	release()
	f.advance(Grace)
	f.add(t, bind(1, "b.test", 0, a2))
	f.wantNames(t, a1, "b.test")
}

func TestExpiryKernelRefuses(t *testing.T) {
	f := newFixture(t, 0, https)
	f.add(t, bind(1, "b.test", 0, a1))
	f.advance(time.Hour)
	f.k.set(errors.New("busy"))
	if f.Sweep(context.Background()) == nil {
		t.Fatal("no error")
	}
	f.wantNames(t, a1)
	f.k.set(nil)
	if err := f.Sweep(context.Background()); err != nil || f.k.count() != 0 || f.Len() != 0 {
		t.Fatal(err, f.k.count(), f.Len())
	}
}

func TestWaitEndsWithContext(t *testing.T) {
	f := newFixture(t, 0, https)
	f.gate <- struct{}{}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.Add(ctx, bind(1, "a.test", 0, a1)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestFlush(t *testing.T) {
	f := newFixture(t, 0, https)
	f.add(t, bind(1, "a.test", 0, a1))
	f.add(t, bind(1, "b.test", 0, a1, a6))
	defer f.Hold("b.test", a6)()
	if n, err := f.Flush(context.Background()); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	f.wantPorts(t, a1)
	f.wantNames(t, a6, "b.test")
	if l := f.List(); len(l) != 1 || l[0].Holds != 1 || !l[0].Live {
		t.Fatalf("%+v", l)
	}
	if got := f.ExpiredNames(a1); len(got) != 2 {
		t.Fatal(got)
	}
}

func TestRunSweeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &fakeKernel{t: t, cells: map[policy.Cell]bool{}}
		tab := New(Options{Kernel: k, Cells: rulesOf(https)})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- tab.Run(ctx) }()
		if err := tab.Add(ctx, bind(0, "a.test", 0, a1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(MinLife + Grace + Linger + SweepEvery) // virtual time
		synctest.Wait()
		if k.count() != 0 {
			t.Error("an expired pin is still in the kernel")
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestConcurrent(t *testing.T) {
	f := newFixture(t, 64, https)
	var wg sync.WaitGroup
	names := []string{"a.test", "b.test", "any.test"}
	for i := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for range 300 {
				a := netip.AddrFrom4([4]byte{1, 1, 1, byte(r.IntN(30))})
				n := names[r.IntN(3)]
				switch r.IntN(6) {
				case 0:
					f.advance(20 * time.Second)
					_ = f.Sweep(context.Background())
				case 1:
					f.Hold(n, a)()
				case 2:
					f.Candidates(a)
					f.ExpiredNames(a)
					f.List()
				case 3:
					g := f.currentGeneration() + 1
					_ = f.Reload(context.Background(), Rules{Generation: g, Cells: rulesOf(https)}, func() {})
				default:
					err := f.Add(context.Background(), bind(f.currentGeneration(), n, 0, a))
					if err != nil && !errors.Is(err, ErrFull) && !errors.Is(err, ErrStale) {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	f.advance(time.Hour)
	if err := f.Sweep(context.Background()); err != nil || f.k.count() != 0 || f.Len() != 0 || len(f.kern) != 0 {
		t.Fatalf("left over: %v, kernel %v", err, f.k.cells)
	}
}

func (f *fixture) currentGeneration() uint64 {
	f.Table.mu.RLock()
	defer f.Table.mu.RUnlock()
	return f.gen
}

func BenchmarkRenew(b *testing.B) {
	f := newFixture(b, 0, https)
	x := bind(1, "a.test", 0, a1, a2)
	f.add(b, x)
	for b.Loop() {
		f.add(b, x)
	}
}

func BenchmarkCandidates(b *testing.B) {
	f := newFixture(b, 0, https)
	f.add(b, bind(1, "a.test", 0, a1, a2))
	for b.Loop() {
		f.Candidates(a1)
	}
}
