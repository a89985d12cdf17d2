package nft

import (
	"context"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"outcall/policy"
	"outcall/sandbox/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// A netfilter is a Conn into a namespace of a test.
type netfilter struct {
	t testing.TB
	w *nstest.World
}

func (n netfilter) Socket() (*os.File, error) {
	return n.w.Socket(n.t, n.w.Gateway, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER), nil
}

var both = Options{Bridge: nstest.Bridge, Agent4: nstest.Agent4, Gateway4: nstest.Gateway4,
	Agent6: nstest.Agent6, Gateway6: nstest.Gateway6, ProxyPort: 8080}

// newTable makes a world and its base table.
func newTable(t testing.TB, o Options) (*nstest.World, *Table) {
	t.Helper()
	w := nstest.NewWorld(t)
	if t.Failed() {
		t.FailNow()
	}
	table, err := Open(netfilter{t, w})
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Base(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	return w, table
}

func tcp(prefix, rule string, lo, hi uint16) policy.Cell {
	return cell(prefix, rule, policy.TCP, lo, hi)
}

func cell(prefix, rule string, p policy.Proto, lo, hi uint16) policy.Cell {
	n, err := netip.ParsePrefix(prefix)
	if err != nil {
		a := netip.MustParseAddr(prefix)
		n = netip.PrefixFrom(a, a.BitLen())
	}
	return policy.Cell{Prefix: n, Proto: p, PortLow: lo, PortHigh: hi, Rule: rule}
}

// A fixed Conn gives one socket that is there already.
type fixed struct{ f *os.File }

func (f fixed) Socket() (*os.File, error) { return f.f, nil }
