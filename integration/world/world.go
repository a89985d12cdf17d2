package world

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"testing"
)

// Ports are the random ports on which a server of each kind also stands, at
// every address.
type Ports struct {
	HTTP, HTTPS, Echo, Greet uint16
}

// A World is one small internet. There is one at a time in a process.
type World struct {
	DNS     *DNS
	CA      *CA
	Origins *Origins
	*Capture
	Ports Ports
	// Resolver is the host's configured resolver, Resolver6 one that is not
	// configured and answers, too.
	Resolver, Resolver6 netip.Addr

	internet *place
	used     map[netip.Addr]bool
}

// one holds back a second world: the host's routes and resolv.conf are single.
var one sync.Mutex

// New builds a world, which ends with the test. A second New waits for it.
func New(t testing.TB) *World {
	t.Helper()
	if os.Getenv(stageVar) != "test" {
		t.Fatal("world: not inside: TestMain must call world.Main")
	}
	one.Lock()
	w := &World{used: map[netip.Addr]bool{}}
	t.Cleanup(func() {
		defer one.Unlock()
		if err := w.close(); err != nil {
			t.Errorf("world: close: %v", err)
		}
	})
	if err := w.build(); err != nil {
		t.Fatalf("world: %v", err)
	}
	w.populate()
	return w
}

func (w *World) build() (err error) {
	w.Ports = randomPorts()
	if w.internet, err = newPlace(); err != nil {
		return err
	}
	if err = connect(w.internet); err != nil {
		return err
	}
	if w.Capture, err = newCapture(w.internet); err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	if w.CA, err = newCA(Dir + "/ca.pem"); err != nil {
		return fmt.Errorf("CA: %w", err)
	}
	if w.DNS, err = newDNS(w.internet); err != nil {
		return fmt.Errorf("resolver: %w", err)
	}
	w.Origins = &Origins{ca: w.CA}
	if err = w.Origins.start(w.internet, &w.Ports); err != nil {
		return fmt.Errorf("origins: %w", err)
	}
	w.Resolver, w.Resolver6 = w.Addr4(), w.Addr6()
	return setResolvers(w.Resolver)
}

// close undoes build as far as it came, in the opposite order.
func (w *World) close() error {
	var errs []error
	if w.Origins != nil {
		errs = append(errs, w.Origins.close())
	}
	if w.DNS != nil {
		errs = append(errs, w.DNS.close())
	}
	if w.Capture != nil {
		errs = append(errs, w.Capture.close())
	}
	if w.internet != nil {
		errs = append(errs, disconnect())
		w.internet.close()
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// populate gives the names that most tests use their addresses. All of them
// have both families but four.allowed.test and six.allowed.test.
func (w *World) populate() {
	both := func() []netip.Addr { return []netip.Addr{w.Addr4(), w.Addr6()} }
	for _, n := range []string{"api.allowed.test", "git.allowed.test", "evil.test", "www.evil.test", "one.wild.test", "two.wild.test"} {
		w.DNS.Set(n, Records{Addrs: both(), TTL: -1})
	}
	w.DNS.Set("four.allowed.test", Records{Addrs: []netip.Addr{w.Addr4()}, TTL: -1})
	w.DNS.Set("six.allowed.test", Records{Addrs: []netip.Addr{w.Addr6()}, TTL: -1})
	w.DNS.Set("www.allowed.test", Records{CNAME: "api.allowed.test", TTL: -1})
	w.DNS.Set("many.allowed.test", Records{Addrs: []netip.Addr{w.Addr4(), w.Addr4(), w.Addr4(), w.Addr4()}, TTL: -1})
	shared := both()
	w.DNS.Set("shared.allowed.test", Records{Addrs: shared, TTL: -1})
	w.DNS.Set("shared.evil.test", Records{Addrs: shared, TTL: -1})
}

// Addr4 returns a fresh public IPv4 address.
func (w *World) Addr4() netip.Addr {
	return w.fresh(func() netip.Addr {
		return netip.AddrFrom4([4]byte{93, 184, byte(rand.Uint32N(256)), byte(1 + rand.Uint32N(254))})
	})
}

// Addr6 returns a fresh public IPv6 address.
func (w *World) Addr6() netip.Addr {
	return w.fresh(func() netip.Addr {
		a := netip.MustParseAddr("2606:2800:220:1::").As16()
		for i := 8; i < 16; i++ {
			a[i] = byte(rand.Uint32N(256))
		}
		return netip.AddrFrom16(a)
	})
}

func (w *World) fresh(next func() netip.Addr) netip.Addr {
	for {
		if a := next(); !w.used[a] {
			w.used[a] = true
			return a
		}
	}
}

// AddrsOf returns the addresses that a name has in the zone.
func (w *World) AddrsOf(name string) []netip.Addr {
	w.DNS.mu.Lock()
	defer w.DNS.mu.Unlock()
	return append([]netip.Addr(nil), w.DNS.names[canonical(name)].Addrs...)
}

// V4 and V6 return the first address of a name in one family; the name must
// have one.
func (w *World) V4(t testing.TB, name string) netip.Addr { return w.first(t, name, netip.Addr.Is4) }

// V6 is V4 for IPv6.
func (w *World) V6(t testing.TB, name string) netip.Addr { return w.first(t, name, netip.Addr.Is6) }

func (w *World) first(t testing.TB, name string, is func(netip.Addr) bool) netip.Addr {
	t.Helper()
	for _, a := range w.AddrsOf(name) {
		if is(a) {
			return a
		}
	}
	t.Fatalf("world: %s has no address of that family", name)
	return netip.Addr{}
}

// SetResolvers writes the host's resolv.conf anew until the test ends.
func (w *World) SetResolvers(t testing.TB, servers ...netip.Addr) {
	t.Helper()
	if err := setResolvers(servers...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { setResolvers(w.Resolver) })
}

// WithoutIPv6 takes the host's IPv6 default route away until the test ends.
func (w *World) WithoutIPv6(t testing.TB) {
	t.Helper()
	if err := DefaultRoute(false, false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { DefaultRoute(false, true) })
}

func randomPorts() Ports {
	used := map[uint16]bool{8080: true, 8443: true}
	next := func() uint16 {
		for {
			p := uint16(10000 + rand.Uint32N(20000))
			if !used[p] {
				used[p] = true
				return p
			}
		}
	}
	return Ports{HTTP: next(), HTTPS: next(), Echo: next(), Greet: next()}
}
