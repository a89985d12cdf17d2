package pin

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"outcall/policy"
)

// granted is a binding of one address with a grant of each rule, which tells
// refused of those that had no room.
func granted(gen uint64, i int, refused *[]string, rules ...string) Binding {
	a := Addr{Addr: nth(i)}
	for _, r := range rules {
		a.Grants = append(a.Grants, policy.Grant{Rule: r, Proto: policy.TCP, Port: 22})
	}
	return Binding{Generation: gen, Name: "a.test", Addrs: []Addr{a}, Refused: func(r string) { *refused = append(*refused, r) }}
}

func nth(i int) netip.Addr { return netip.AddrFrom4([4]byte{93, 184, byte(i >> 8), byte(i)}) }

// held counts the grants of a rule that flows can have, and checks the tally.
func (f *fixture) held(t *testing.T, rule string) (n int) {
	t.Helper()
	for _, p := range f.List() {
		for _, c := range f.Candidates(p.Addr) {
			n += len(slices.DeleteFunc(slices.Clone(c.Grants), func(g policy.Grant) bool { return g.Rule != rule }))
		}
	}
	if f.grants[rule] != n {
		t.Fatalf("%d grants of %s are counted, %d are held", f.grants[rule], rule, n)
	}
	return n
}

// The grants of a rule are bounded: the pin beyond is made without one, those
// that are held stay, and there is room again when pins go.
func TestMaxGrants(t *testing.T) {
	f := newFixture(t, 0, nil)
	var refused []string
	for i := range MaxGrants {
		f.add(t, granted(1, i, &refused, "d"))
	}
	if f.held(t, "d") != MaxGrants || len(refused) != 0 {
		t.Fatal(f.held(t, "d"), refused)
	}
	release := f.Hold("a.test", nth(0))
	f.add(t, granted(1, MaxGrants, &refused, "d", "other"))
	f.wantNames(t, nth(MaxGrants), "a.test")
	f.wantPorts(t, nth(MaxGrants), "tcp/22-22>other")
	if f.held(t, "d") != MaxGrants || f.held(t, "other") != 1 || !slices.Equal(refused, []string{"d"}) {
		t.Fatal(f.held(t, "d"), f.held(t, "other"), refused)
	}
	// An answer that has a new address beside one that is pinned takes nothing
	// from the latter.
	both := granted(1, MaxGrants+1, &refused, "d")
	both.Addrs = append(both.Addrs, granted(1, 3, &refused, "d").Addrs...)
	f.add(t, both)
	f.wantPorts(t, nth(3), "tcp/22-22>d")
	f.wantPorts(t, nth(MaxGrants+1))

	f.advance(MinLife + Grace + time.Second)
	refused = nil
	for i := range MaxGrants {
		f.add(t, granted(1, 1000+i, &refused, "d")) // expired pins linger: not at its cost
	}
	if f.held(t, "d") != MaxGrants || !slices.Equal(refused, []string{"d"}) {
		t.Fatalf("%d beside the one that a flow holds, refused %q", f.held(t, "d"), refused)
	}
	release()
	if _, err := f.Flush(context.Background()); err != nil || f.held(t, "d") != 0 || len(f.grants) != 0 {
		t.Fatal(err, f.grants)
	}
}

// A reload counts anew what the new rules grant, within the same bound.
func TestMaxGrantsOverReload(t *testing.T) {
	f := newFixture(t, 0, nil)
	var refused []string
	for i := range MaxGrants + 50 {
		f.add(t, granted(1, i, &refused, "d"))
	}
	reload := func(gen uint64, rule string, keep int) {
		t.Helper()
		refused = nil
		err := f.Reload(context.Background(), Rules{Generation: gen, Cells: rulesOf(nil),
			Judge: func(p Pin) ([]policy.Grant, bool) {
				return []policy.Grant{{Rule: rule, Proto: policy.TCP, Port: 22}}, slices.Index(addrs(keep), p.Addr) >= 0
			},
			Refused: func(r string) { refused = append(refused, r) },
		}, func() {})
		if err != nil {
			t.Fatal(err)
		}
	}
	reload(2, "d", MaxGrants+50)
	if f.held(t, "d") != MaxGrants || !slices.Equal(refused, []string{"d"}) {
		t.Fatal(f.held(t, "d"), refused)
	}
	f.wantPorts(t, nth(0), "tcp/22-22>d")
	f.wantPorts(t, nth(MaxGrants)) // what was held went before
	reload(3, "e", MaxGrants+50)
	if f.held(t, "d") != 0 || f.held(t, "e") != MaxGrants {
		t.Fatal(f.grants)
	}
	reload(4, "e", 100)
	if f.held(t, "e") != 100 || len(refused) != 0 || f.Len() != 100 {
		t.Fatal(f.grants, refused, f.Len())
	}
	for i := range MaxGrants - 99 {
		f.add(t, granted(4, 1000+i, &refused, "e"))
	}
	if f.held(t, "e") != MaxGrants || fmt.Sprint(refused) != "[e]" {
		t.Fatal(f.grants, refused)
	}
}

func addrs(n int) (out []netip.Addr) {
	for i := range n {
		out = append(out, nth(i))
	}
	return out
}
