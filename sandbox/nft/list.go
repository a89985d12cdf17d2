package nft

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// List reads the table from the kernel and prints it as `nft list table inet
// outcall` does, so that an operator without the nft program sees the same.
// Elements are in the order of their addresses. What it cannot print, because
// someone else put it there, stands as a comment.
func (t *Table) List(ctx context.Context) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := &lister{t: t, table: &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}}
	for _, part := range []func(context.Context) error{l.counters, l.maps, l.restricted, l.chains} {
		if err := part(ctx); err != nil {
			return "", err
		}
	}
	return "table inet " + TableName + " {\n" + strings.Join(l.blocks, "\n") + "}\n", nil
}

type lister struct {
	t      *Table
	table  *nftables.Table
	blocks []string
}

func (l *lister) block(head string, lines ...string) {
	l.blocks = append(l.blocks, "\t"+head+" {\n\t\t"+strings.Join(lines, "\n\t\t")+"\n\t}\n")
}

func (l *lister) counters(ctx context.Context) error {
	c, err := l.t.sock.conn(ctx)
	if err != nil {
		return fmt.Errorf("nft: list counters: %w", err)
	}
	objs, err := c.GetNamedObjects(l.table)
	if err != nil {
		return fmt.Errorf("nft: list counters: %w", err)
	}
	for _, o := range objs {
		if n, ok := counterOf(o); ok {
			l.block("counter "+o.(*nftables.NamedObj).Name, fmt.Sprintf("packets %d bytes %d", n.Packets, n.Bytes))
		}
	}
	return nil
}

// elements reads one map from the kernel: element → verdict, as nft writes it.
func (t *Table) elements(ctx context.Context, m mapID) (map[element]string, error) {
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
	c, err := t.sock.conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("nft: read map %s: %w", m, err)
	}
	raw, err := c.GetSetElements(&nftables.Set{Table: table, Name: m.String()})
	if err != nil {
		return nil, fmt.Errorf("nft: read map %s: %w", m, err)
	}
	out := make(map[element]string, len(raw))
	for _, s := range raw {
		e, ok := parseElement(m, s)
		if !ok {
			return nil, fmt.Errorf("nft: read map %s: an element of unknown form", m)
		}
		out[e] = verdictText(s.Val)
	}
	return out, nil
}

func (l *lister) maps(ctx context.Context) error {
	for _, m := range allMaps {
		elems, err := l.t.elements(ctx, m)
		if err != nil {
			return err
		}
		typ := "type " + addrType(m.six()) + " . inet_proto"
		if !m.hosts() {
			typ += " . inet_service"
		}
		lines := []string{typ + " : verdict"}
		if m.interval() {
			lines = append(lines, "flags interval")
		}
		var texts []string
		for _, e := range slices.SortedFunc(maps.Keys(elems), compareElements) {
			texts = append(texts, e.String()+" : "+elems[e])
		}
		if len(texts) > 0 {
			lines = append(lines, "elements = { "+strings.Join(texts, ",\n\t\t\t     ")+" }")
		}
		l.block("map "+m.String(), lines...)
	}
	return nil
}

func addrType(six bool) string {
	if six {
		return "ipv6_addr"
	}
	return "ipv4_addr"
}

// restricted prints the two sets of the observe mode where they exist.
func (l *lister) restricted(ctx context.Context) error {
	for _, s := range []struct {
		name string
		six  bool
	}{{setRestricted4, false}, {setRestricted6, true}} {
		c, err := l.t.sock.conn(ctx)
		if err != nil {
			return fmt.Errorf("nft: read set %s: %w", s.name, err)
		}
		elems, err := c.GetSetElements(&nftables.Set{Table: l.table, Name: s.name})
		if err != nil {
			if k, ok := l.t.sock.fail.(*kernelError); ok && k.errno == unix.ENOENT {
				continue
			}
			return fmt.Errorf("nft: read set %s: %w", s.name, err)
		}
		lines := []string{"type " + addrType(s.six), "flags interval"}
		if texts := intervalTexts(elems); len(texts) > 0 {
			lines = append(lines, "elements = { "+pairs(texts, s.six)+" }")
		}
		l.block("set "+s.name, lines...)
	}
	return nil
}

// pairs joins elements as nft does: two IPv4 networks a line, one IPv6.
func pairs(texts []string, six bool) string {
	var b strings.Builder
	for i, t := range texts {
		switch {
		case i == 0:
		case six || i%2 == 0:
			b.WriteString(",\n\t\t\t     ")
		default:
			b.WriteString(", ")
		}
		b.WriteString(t)
	}
	return b.String()
}

func (l *lister) chains(ctx context.Context) error {
	chains, err := l.t.chains(ctx)
	if err != nil {
		return err
	}
	for _, ch := range chains {
		var lines []string
		if ch.Hooknum != nil && ch.Priority != nil {
			lines = append(lines, baseChainText(ch))
		}
		c, err := l.t.sock.conn(ctx)
		if err != nil {
			return fmt.Errorf("nft: list chain %s: %w", ch.Name, err)
		}
		rules, err := c.GetRules(l.table, ch)
		if err != nil {
			return fmt.Errorf("nft: list chain %s: %w", ch.Name, err)
		}
		for _, r := range rules {
			lines = append(lines, ruleText(r.Exprs))
		}
		l.block("chain "+ch.Name, lines...)
	}
	return nil
}
