package nft

import (
	"context"
	"os/exec"
	"regexp"
	"sort"
	"strings"
	"testing"

	"outcall/policy"
	"outcall/sandbox/internal/nstest"
)

// nftProgram runs the real nft program in a namespace.
func nftProgram(t *testing.T, w *nstest.World, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("nft")
	if err != nil {
		path = "/usr/sbin/nft"
	}
	var out []byte
	w.In(t, w.Gateway, func() { out, err = exec.Command(path, args...).CombinedOutput() })
	if err != nil {
		t.Fatalf("nft %v: %v\n%s\ninstall the nftables package to compare with it, or go test -short", args, err, out)
	}
	return string(out)
}

var elementLists = regexp.MustCompile(`(?s)elements = \{ (.*?) \}`)

// sortElements brings the elements of a listing into one order: nft sorts
// keys as little-endian numbers.
func sortElements(s string) string {
	return elementLists.ReplaceAllStringFunc(s, func(list string) string {
		list = strings.TrimSuffix(strings.TrimPrefix(list, "elements = { "), " }")
		parts := strings.Split(list, ",")
		for i := range parts {
			parts[i] = strings.TrimSpace(parts[i])
		}
		sort.Strings(parts)
		return "elements = {\n" + strings.Join(parts, "\n") + "\n}"
	})
}

func allCells() (pins, nets []policy.Cell) {
	pins = []policy.Cell{
		tcp("93.184.216.34", "a", 443, 443), tcp("93.184.216.35", "A.b-c_9", 443, 443),
		tcp("2001:db8::1", strings.Repeat("x", 128), 22, 22), tcp("93.184.216.34", "a", 1, 1023),
		cell("93.184.216.34", "a", policy.UDP, 443, 443), cell("93.184.216.34", "ping", policy.ICMP, 0, 0),
		cell("2001:db8::1", "ping", policy.ICMP, 0, 0), cell("2001:db8::1", "1", policy.UDP, 0, 65535), cell("2001:db8::2", "1", policy.UDP, 5, 6),
	}
	nets = []policy.Cell{
		tcp("198.51.100.0/24", "net", 80, 90), tcp("0.0.0.0/0", "any", 22, 22), tcp("203.0.113.7", "net", 1, 65535),
		tcp("2001:db8:1::/48", "net", 443, 443), cell("::/0", "any", policy.UDP, 53, 53),
		cell("203.0.113.0/24", "ping", policy.ICMP, 0, 0), cell("2001:db8:2::/64", "ping", policy.ICMP, 0, 0),
	}
	return pins, nets
}

// What List prints is what the nft program prints.
func TestListIsNft(t *testing.T) {
	for name, o := range map[string]Options{
		"both families": both,
		"ipv4 only":     {Bridge: "outcall0", Agent4: nstest.Agent4, Gateway4: nstest.Gateway4},
		"observe": {Bridge: "outcall0", Agent4: nstest.Agent4, Gateway4: nstest.Gateway4,
			Agent6: nstest.Agent6, Gateway6: nstest.Gateway6, ProxyPort: 1, Observe: true},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			w, table := newTable(t, o)
			compareListing(t, w, table)
			pins, nets := allCells()
			if err := table.AddPins(ctx, pins); err != nil {
				t.Fatal(err)
			}
			if err := table.SetNets(ctx, nets); err != nil {
				t.Fatal(err)
			}
			compareListing(t, w, table)
		})
	}
}

func compareListing(t *testing.T, w *nstest.World, table *Table) {
	t.Helper()
	got, err := table.List(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	want := nftProgram(t, w, "list", "table", "inet", "outcall")
	if g, n := sortElements(got), sortElements(want); g != n {
		t.Errorf("List differs from nft:\n--- List\n%s\n--- nft\n%s", g, n)
	}
}
