package pin

import (
	"context"
	"errors"
	"testing"

	"outcall/policy"
)

func TestReload(t *testing.T) {
	f := newFixture(t, 0, https)
	f.add(t, bind(1, "a.test", 0, a1))
	f.add(t, bind(1, "b.test", 0, a1))
	f.add(t, bind(1, "b.test", 0, a2))
	swapped := false
	r := Rules{
		Generation: 2,
		Cells:      rulesOf(map[string][]span{"b.test": {{22, 22}, {443, 443}}}),
		Judge: func(p Pin) ([]policy.Grant, bool) {
			return []policy.Grant{{Rule: "direct", Proto: policy.TCP, Port: 9}}, p.Name != "a.test"
		},
	}
	err := f.Reload(context.Background(), r, func() {
		swapped = true
		// What only the old rules allowed is out before the new ones hold, and
		// what the new ones add is not in yet.
		f.wantPorts(t, a2, "tcp/443-443>r-b.test")
		f.wantPorts(t, a1, "tcp/443-443>r-a.test")
		f.wantNames(t, a1, "b.test")
	})
	if err != nil || !swapped {
		t.Fatal(err, swapped)
	}
	f.wantPorts(t, a1, "tcp/22-22>r-b.test", "tcp/443-443>r-b.test", "tcp/9-9>direct")
	f.wantNames(t, a1, "b.test")
	if c := f.Candidates(a2); len(c) != 1 || len(c[0].Grants) != 1 {
		t.Fatalf("candidates %v", c)
	}
	if err := f.Reload(context.Background(), r, nil); err == nil {
		t.Fatal("a generation came twice")
	}
}

// K15: an answer that the old rules judged is not pinned under the new ones.
func TestK15StaleBinding(t *testing.T) {
	f := newFixture(t, 0, https)
	f.add(t, bind(1, "b.test", 0, a1))
	err := f.Reload(context.Background(), Rules{Generation: 2, Cells: rulesOf(https)}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"a.test", "b.test"} { // a new pin, a renewal
		if err := f.Add(context.Background(), bind(1, n, 0, a1)); !errors.Is(err, ErrStale) {
			t.Fatalf("%s: %v, want ErrStale", n, err)
		}
	}
	f.wantNames(t, a1, "b.test")
	f.add(t, bind(2, "a.test", 0, a1))
}

func TestReloadKernelRefuses(t *testing.T) {
	f := newFixture(t, 0, https)
	f.add(t, bind(1, "b.test", 0, a1))
	f.k.set(errors.New("busy"))
	err := f.Reload(context.Background(), Rules{Generation: 2, Cells: rulesOf(nil)}, func() { t.Fatal("swapped") })
	if err == nil {
		t.Fatal("no error")
	}
	f.k.set(nil)
	f.wantNames(t, a1, "b.test")
	if err := f.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	f.wantPorts(t, a1, "tcp/443-443>r-b.test", "tcp/80-80>r-b.test")
	f.add(t, bind(1, "a.test", 0, a1))
}
