package nft

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"outcall/policy"
	"outcall/sandbox/internal/nstest"
)

func listing(t *testing.T, table *Table) string {
	t.Helper()
	s, err := table.List(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Cells are a set; a rule's chain exists while it has elements; a second rule
// at the same element takes over when the first goes.
func TestPinsAreASet(t *testing.T) {
	ctx := context.Background()
	_, table := newTable(t, both)
	empty := listing(t, table)
	a, b := tcp("93.184.216.34", "a", 443, 443), tcp("93.184.216.34", "b", 443, 443)
	must(t, table.AddPins(ctx, []policy.Cell{a, b, a}))
	must(t, table.AddPins(ctx, []policy.Cell{a}))
	if s := listing(t, table); !strings.Contains(s, "443 : jump r_a }") || strings.Contains(s, "r_b") {
		t.Fatalf("the first rule must own the element:\n%s", s)
	}
	must(t, table.DelPins(ctx, []policy.Cell{a}))
	if s := listing(t, table); !strings.Contains(s, "443 : jump r_b }") || strings.Contains(s, "r_a") {
		t.Fatalf("the second rule must take over:\n%s", s)
	}
	must(t, table.DelPins(ctx, []policy.Cell{a, b, b}))
	if s := listing(t, table); s != empty {
		t.Fatalf("not empty again:\n%s", s)
	}
}

// Pins' ranges may overlap each other and networks: the kernel's intervals
// must not.
func TestOverlaps(t *testing.T) {
	ctx := context.Background()
	_, table := newTable(t, both)
	must(t, table.SetNets(ctx, []policy.Cell{tcp("93.184.0.0/16", "net", 443, 443)}))
	must(t, table.AddPins(ctx, []policy.Cell{
		tcp("93.184.216.34", "a", 443, 443), tcp("93.184.216.34", "b", 100, 500),
		tcp("93.184.216.34", "c", 1, 60000), tcp("93.184.216.34", "d", 400, 600),
		tcp("93.184.216.34", "e", 1, 65535), tcp("93.184.216.34", "f", 7, 8),
	}))
	s := listing(t, table)
	for _, want := range []string{". tcp . 443 : jump r_a", ". tcp . 100-500 : jump r_b", ". tcp . 1-99 : jump r_c",
		". tcp . 501-60000 : jump r_c", "93.184.216.34 . tcp : jump r_e", "93.184.0.0/16 . tcp . 443 : jump r_net"} {
		if !strings.Contains(s, want) {
			t.Errorf("%q is not in the table", want)
		}
	}
	if strings.Contains(s, "r_d") || strings.Contains(s, "r_f") {
		t.Error("a rule that owns nothing has a chain")
	}
	must(t, table.DelPins(ctx, []policy.Cell{tcp("93.184.216.34", "b", 100, 500), tcp("93.184.216.34", "c", 1, 60000),
		tcp("93.184.216.34", "e", 1, 65535)}))
	if s := listing(t, table); !strings.Contains(s, "400-600 : jump r_d") || !strings.Contains(s, "7-8 : jump r_f") || strings.Contains(s, "r_c") ||
		strings.Contains(s, "r_e") {
		t.Errorf("after removal:\n%s", s)
	}
}

func TestSetNetsIsADiff(t *testing.T) {
	ctx := context.Background()
	w, table := newTable(t, both)
	keep := tcp("198.51.100.0/24", "keep", 80, 80)
	must(t, table.SetNets(ctx, []policy.Cell{keep, tcp("10.0.0.0/8", "old", 1, 65535)}))
	// What covers the old network comes in the same batch.
	must(t, table.SetNets(ctx, []policy.Cell{keep, tcp("10.0.0.0/9", "new", 1, 65535), tcp("10.128.0.0/9", "other", 1, 1000)}))
	s := listing(t, table)
	if strings.Contains(s, "r_old") || !strings.Contains(s, "10.128.0.0/9 . tcp . 1-1000 : jump r_other") {
		t.Errorf("after the change:\n%s", s)
	}
	compareListing(t, w, table)
	err := table.SetNets(ctx, []policy.Cell{keep, tcp("10.0.0.0/8", "x", 1, 10), tcp("10.1.0.0/16", "y", 5, 5)})
	if !errors.Is(err, unix.EEXIST) {
		t.Errorf("overlapping networks: %v, want EEXIST", err)
	}
}

func TestRefusals(t *testing.T) {
	ctx := context.Background()
	w, table := newTable(t, both)
	for name, c := range map[string]policy.Cell{
		"a network":        tcp("10.0.0.0/8", "a", 1, 1),
		"no rule":          tcp("10.0.0.1", "", 1, 1),
		"a long rule":      tcp("10.0.0.1", strings.Repeat("a", 129), 1, 1),
		"a rule's letters": tcp("10.0.0.1", "a b", 1, 1),
		"ports":            tcp("10.0.0.1", "a", 2, 1),
		"a protocol":       cell("10.0.0.1", "a", "sctp", 1, 1),
		"no address":       {Proto: policy.TCP, Rule: "a"},
		"mapped":           tcp("::ffff:10.0.0.1", "a", 1, 1),
	} {
		if err := table.AddPins(ctx, []policy.Cell{c}); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := table.AddPins(gone, []policy.Cell{tcp("10.0.0.1", "a", 1, 1)}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: %v", err)
	}
	if s := listing(t, table); strings.Contains(s, "jump") {
		t.Errorf("something got in:\n%s", s)
	}
	must(t, table.Drop(ctx))
	if err := table.AddPins(ctx, nil); !errors.Is(err, ErrNoTable) {
		t.Errorf("without a table: %v", err)
	}
	if on, err := table.Active(ctx); on || err != nil {
		t.Errorf("active after Drop: %v, %v", on, err)
	}
	for _, o := range []Options{
		{}, {Bridge: "a/b", Agent4: both.Agent4, Gateway4: both.Gateway4},
		{Bridge: "outcall0", Agent4: both.Agent4},
		{Bridge: "outcall0", Agent4: both.Agent4, Gateway4: both.Gateway4, Agent6: both.Agent6},
		{Bridge: strings.Repeat("b", 16), Agent4: both.Agent4, Gateway4: both.Gateway4},
	} {
		if err := table.Base(ctx, o); err == nil {
			t.Errorf("%+v: taken", o)
		}
	}
	if s := nftProgram(t, w, "list", "ruleset"); s != "" {
		t.Errorf("a refused base table left %q", s)
	}
}

// Base on a live table keeps its elements and its counts.
func TestBaseAgain(t *testing.T) {
	ctx := context.Background()
	w, table := newTable(t, both)
	pins, nets := allCells()
	must(t, table.AddPins(ctx, pins))
	must(t, table.SetNets(ctx, nets))
	before := sortElements(listing(t, table))
	must(t, table.Base(ctx, both))
	if after := sortElements(listing(t, table)); len(after) != len(before) {
		t.Errorf("not the same:\n%s\n%s", before, after)
	}
	compareListing(t, w, table)
	if on, err := table.Active(ctx); !on || err != nil {
		t.Errorf("active: %v, %v", on, err)
	}
}

// An operator who changes the table by hand does not break revocation.
func TestChangedByHand(t *testing.T) {
	ctx := context.Background()
	w, table := newTable(t, both)
	a, b := tcp("93.184.216.34", "a", 443, 443), tcp("93.184.216.35", "b", 443, 443)
	must(t, table.AddPins(ctx, []policy.Cell{a, b}))
	nftProgram(t, w, "delete", "element", "inet", "outcall", "pins4", "{ 93.184.216.34 . tcp . 443 }")
	nftProgram(t, w, "add", "element", "inet", "outcall", "pins4", "{ 1.1.1.1 . tcp . 443 : accept }")
	must(t, table.DelPins(ctx, []policy.Cell{a}))
	s := listing(t, table)
	if strings.Contains(s, "1.1.1.1") || strings.Contains(s, "r_a") && strings.Contains(s, "jump r_a") || !strings.Contains(s, "jump r_b") {
		t.Errorf("after a change by hand:\n%s", s)
	}
	nftProgram(t, w, "add", "element", "inet", "outcall", "pins4", "{ 93.184.216.36 . tcp . 443 : accept }")
	must(t, table.AddPins(ctx, []policy.Cell{tcp("93.184.216.36", "c", 443, 443)}))
	if s := listing(t, table); !strings.Contains(s, "93.184.216.36 . tcp . 443 : jump r_c") {
		t.Errorf("an element put there by hand won:\n%s", s)
	}
	nftProgram(t, w, "delete", "table", "inet", "outcall")
	if err := table.AddPins(ctx, []policy.Cell{a}); !errors.Is(err, unix.ENOENT) {
		t.Errorf("without its table: %v, want ENOENT", err)
	}
}

func manyPins(n int) []policy.Cell {
	cells := make([]policy.Cell, n)
	a := netip.MustParseAddr("1.0.0.0")
	for i := range cells {
		a = a.Next()
		cells[i] = policy.Cell{Prefix: netip.PrefixFrom(a, 32), Proto: policy.TCP, PortLow: 443, PortHigh: 443,
			Rule: fmt.Sprintf("rule-%d", i)}
	}
	return cells
}

// 10,000 pins of 10,000 rules go in, are listed, and go out again with every
// chain and counter, over a socket with an ordinary user's buffers.
func TestTenThousand(t *testing.T) {
	ctx := context.Background()
	_, table := newTable(t, both)
	empty := listing(t, table)
	cells := manyPins(10000)
	must(t, table.AddPins(ctx, cells))
	elems, err := table.elements(ctx, pins4)
	must(t, err)
	if len(elems) != len(cells) {
		t.Errorf("%d elements, want %d", len(elems), len(cells))
	}
	counts, err := table.Counters(ctx)
	must(t, err)
	if len(counts.Rules) != len(cells) {
		t.Errorf("%d counters, want %d", len(counts.Rules), len(cells))
	}
	must(t, table.DelPins(ctx, cells))
	if s := listing(t, table); s != empty {
		t.Errorf("%d bytes are left in the table", len(s))
	}
	if err := table.AddPins(ctx, manyPins(MaxCells+1)); !errors.Is(err, ErrFull) {
		t.Errorf("%d cells: %v, want ErrFull", MaxCells+1, err)
	}
}

// The longest names fit into the batches, going in and going out.
func TestLongNames(t *testing.T) {
	ctx := context.Background()
	_, table := newTable(t, both)
	empty := listing(t, table)
	var cells []policy.Cell
	a := netip.MustParseAddr("2001:db8::")
	for i := range 500 {
		a = a.Next()
		rule := fmt.Sprintf("%0*d", maxRuleID, i)
		cells = append(cells, policy.Cell{Prefix: netip.PrefixFrom(a, 128), Proto: policy.TCP, PortLow: 1, PortHigh: 1000, Rule: rule},
			policy.Cell{Prefix: netip.PrefixFrom(a, 128), Proto: policy.UDP, PortLow: 1, PortHigh: 1000, Rule: rule})
	}
	must(t, table.AddPins(ctx, cells))
	must(t, table.DelPins(ctx, cells))
	if s := listing(t, table); s != empty {
		t.Errorf("%d bytes are left in the table", len(s))
	}
}

func TestDisjoint(t *testing.T) {
	got := disjoint([]span{{0, 65535, "a"}, {5, 7, "b"}})
	if !slices.Equal(got, []span{{0, 65535, "a"}}) {
		t.Errorf("covered span: %v", got)
	}
	got = disjoint([]span{{65535, 65535, "a"}, {0, 65535, "b"}, {10, 20, "c"}})
	if !slices.Equal(got, []span{{0, 65534, "b"}, {65535, 65535, "a"}}) {
		t.Errorf("last port: %v", got)
	}
}

// The socket may come from a namespace below: the one who made it needs no
// privilege of its own to program the table.
func TestPassedSocket(t *testing.T) {
	nstest.Need(t)
	f := nstest.Passed(t, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)
	table, err := Open(fixed{f})
	must(t, err)
	must(t, table.Base(context.Background(), both))
	must(t, table.AddPins(context.Background(), manyPins(2000)))
	if on, err := table.Active(context.Background()); !on || err != nil {
		t.Errorf("active: %v, %v", on, err)
	}
}

func BenchmarkAddPins(b *testing.B) {
	ctx := context.Background()
	_, table := newTable(b, both)
	cells := manyPins(10000)
	for b.Loop() {
		must(b, table.AddPins(ctx, cells))
		b.StopTimer()
		must(b, table.DelPins(ctx, cells))
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/10000rules")
}

func BenchmarkOnePin(b *testing.B) {
	ctx := context.Background()
	_, table := newTable(b, both)
	must(b, table.AddPins(ctx, manyPins(1000)))
	one := []policy.Cell{tcp("9.9.9.9", "one", 443, 443)}
	for b.Loop() {
		must(b, table.AddPins(ctx, one))
		must(b, table.DelPins(ctx, one))
	}
}

func BenchmarkSetNets(b *testing.B) {
	ctx := context.Background()
	_, table := newTable(b, both)
	cells := manyPins(10000)
	for b.Loop() {
		must(b, table.SetNets(ctx, cells))
		b.StopTimer()
		must(b, table.SetNets(ctx, nil))
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/10000networks")
}

// A host with all its ports, which a rule without a port gives.
func BenchmarkOneHost(b *testing.B) {
	ctx := context.Background()
	_, table := newTable(b, both)
	many := manyPins(1000)
	for i := range many {
		many[i].PortLow, many[i].PortHigh, many[i].Rule = 1, 65535, "one"
	}
	must(b, table.AddPins(ctx, many))
	one := []policy.Cell{tcp("9.9.9.9", "one", 1, 65535)}
	for b.Loop() {
		must(b, table.AddPins(ctx, one))
		must(b, table.DelPins(ctx, one))
	}
}

// A range at an address costs more than a port: the kernel copies the whole
// interval map for each change.
func BenchmarkOneRange(b *testing.B) {
	ctx := context.Background()
	_, table := newTable(b, both)
	many := manyPins(1000)
	for i := range many {
		many[i].PortLow, many[i].PortHigh, many[i].Rule = 1, 65534, "one"
	}
	must(b, table.AddPins(ctx, many))
	one := []policy.Cell{tcp("9.9.9.9", "one", 1, 65534)}
	for b.Loop() {
		must(b, table.AddPins(ctx, one))
		must(b, table.DelPins(ctx, one))
	}
}
