package pin

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"outcall/policy"
)

// TestPlan is the property behind the kernel's share: after any history the
// kernel passes exactly the union of what the names want, in disjoint parts.
func TestPlan(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	p := netip.PrefixFrom(a1, 32)
	var have []policy.Cell
	for range 5000 {
		var want []policy.Cell
		for range r.IntN(5) {
			lo := uint16(r.IntN(20)) + 65516*uint16(r.IntN(2))
			hi := lo + uint16(r.IntN(int(65535-lo)%20+1))
			want = append(want, policy.Cell{Prefix: p, Proto: []policy.Proto{policy.TCP, policy.UDP}[r.IntN(2)],
				PortLow: lo, PortHigh: hi, Rule: fmt.Sprint(r.IntN(3))})
		}
		keep, del, add := plan(have, want)
		next := slices.Concat(keep, add)
		if len(keep)+len(del) != len(have) {
			t.Fatal("an element was lost")
		}
		if got, exp := portSet(t, next, true), portSet(t, want, false); !maps.Equal(got, exp) {
			t.Fatalf("have %v want %v: got %v", have, want, next)
		}
		have = next
	}
}

func portSet(t *testing.T, cells []policy.Cell, disjoint bool) map[string]bool {
	out := map[string]bool{}
	for _, c := range cells {
		for n := int(c.PortLow); n <= int(c.PortHigh); n++ {
			k := fmt.Sprint(c.Proto, n)
			if disjoint && out[k] {
				t.Fatalf("%s twice in %v", k, cells)
			}
			out[k] = true
		}
	}
	return out
}
