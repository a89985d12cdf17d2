package nft

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A Count is what a named counter says: packets and the bytes of them from
// the network header on.
type Count struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

func (c Count) plus(d Count) Count { return Count{c.Packets + d.Packets, c.Bytes + d.Bytes} }

// Counters are the table's counts since it was first made; a rule keeps its
// count while its chain is gone.
type Counters struct {
	Rules    map[string]Count // by rule id; rules that never had an element are absent
	Denied   Count            // no element: logged and dropped
	Spoofed  Count            // not the agent's source address: logged and dropped
	Group    Count            // to all on the link or to a group: logged and dropped
	Stray    Count            // from elsewhere than the agent's bridge: dropped
	DNS      Count            // passed to the DNS filter
	Proxy    Count            // passed to the explicit proxy
	Echo     Count            // echo requests to the gateway
	Observed Count            // passed because the session only observes
}

// maxRetired bounds the counts kept for rules that have no chain. Beyond it
// they are added up under the id "".
const maxRetired = 20000

// Counters reads all counters of the table.
func (t *Table) Counters(ctx context.Context) (Counters, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	live, err := t.liveCounters(ctx)
	if err != nil {
		return Counters{}, err
	}
	out := Counters{Rules: map[string]Count{}}
	for r, n := range t.retired {
		out.add(r, n)
	}
	for name, n := range live {
		out.add(name, n)
	}
	return out, nil
}

// add adds a count under the counter's name in the kernel.
func (c *Counters) add(name string, n Count) {
	fixed := map[string]*Count{counterDenied: &c.Denied, counterSpoofed: &c.Spoofed, counterGroup: &c.Group, counterStray: &c.Stray,
		counterDNS: &c.DNS, counterProxy: &c.Proxy, counterEcho: &c.Echo, counterObserved: &c.Observed}
	if p := fixed[name]; p != nil {
		*p = p.plus(n)
		return
	}
	rule := ruleOf(name)
	c.Rules[rule] = c.Rules[rule].plus(n)
}

// foreign stands for an element or counter that is not of our making.
const foreign = "(foreign)"

// ruleOf is the reverse of chainOf.
func ruleOf(chain string) string {
	if id, ok := strings.CutPrefix(chain, "r_"); ok {
		return id
	}
	return foreign
}

func (t *Table) liveCounters(ctx context.Context) (map[string]Count, error) {
	if !t.up {
		return nil, nil
	}
	c, err := t.sock.conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("nft: read counters: %w", err)
	}
	objs, err := c.GetNamedObjects(&nftables.Table{Name: TableName, Family: nftables.TableFamilyINet})
	if err != nil {
		return nil, fmt.Errorf("nft: read counters: %w", err)
	}
	out := make(map[string]Count, len(objs))
	for _, o := range objs {
		if n, ok := counterOf(o); ok {
			out[o.(*nftables.NamedObj).Name] = n
		}
	}
	return out, nil
}

func counterOf(o nftables.Obj) (Count, bool) {
	named, ok := o.(*nftables.NamedObj)
	if !ok {
		return Count{}, false
	}
	n, ok := named.Obj.(*expr.Counter)
	if !ok {
		return Count{}, false
	}
	return Count{n.Packets, n.Bytes}, true
}

// foldCounters keeps what all counters say, before the table is replaced.
func (t *Table) foldCounters(ctx context.Context) error {
	live, err := t.liveCounters(ctx)
	if err != nil {
		return err
	}
	for name, n := range live {
		t.keep(name, n)
	}
	return nil
}

func (t *Table) keep(name string, n Count) {
	if _, known := t.retired[name]; !known && len(t.retired) >= maxRetired {
		name = chainOf("")
	}
	t.retired[name] = t.retired[name].plus(n)
}

// retire reads the counters of rules whose chains are gone for the last time
// and removes them. Nothing counts on them any more, so the count is final.
func (t *Table) retire(ctx context.Context, rules []string) error {
	if len(rules) == 0 {
		return nil
	}
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
	c, err := t.sock.conn(ctx)
	if err != nil {
		return err
	}
	for _, r := range rules {
		obj := &nftables.NamedObj{Table: table, Name: chainOf(r), Type: nftables.ObjTypeCounter}
		got, err := c.GetObject(obj)
		if errors.Is(err, unix.ENOENT) || errors.Is(t.sock.fail, unix.ENOENT) {
			continue // removed by hand
		}
		if err != nil {
			return fmt.Errorf("nft: read counter %s: %w", obj.Name, err)
		}
		if n, ok := counterOf(got); ok {
			t.keep(obj.Name, n)
		}
		c.DeleteObject(obj)
	}
	return t.sock.flush(c)
}
