package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// A keyTable finds the keys that are true of a value, by look-ups whose number
// does not depend on how many keys there are (save for bounds of numbers: the
// true ones are all met).
type keyTable struct {
	fields FieldSet // that have keys
	uses   []int    // by key
	of     [NumFields]fieldKeys
	nets   map[netip.Prefix]uint32
	bits   [2][]int // lengths of the networks, IPv4 and IPv6
}

// fieldKeys are the keys on one field.
type fieldKeys struct {
	is    map[string]uint32 // ==, in
	apex  map[string]uint32 // domain()
	tail  map[string]uint32 // endsWith
	tails []int             // lengths of the tails that do not begin with a dot
	dots  bool              // some do
	num   map[int64]uint32  // ==, in
	min   []boundKey        // in order
	max   []boundKey
}

type boundKey struct {
	n   int64
	key uint32
}

// add returns the keys of which one is true whenever the comparison is. Some
// comparisons have none.
func (k *keyTable) add(t *term) (keys []uint32, ok bool) {
	of := &k.of[t.field]
	switch t.op {
	case opText:
		for _, s := range t.texts {
			keys = append(keys, keyOf(k, &of.is, s))
		}
	case opDomain:
		if t.texts[0] != "" { // below nothing is nothing
			keys = append(keys, keyOf(k, &of.apex, t.texts[0]))
		}
	case opTail:
		keys = append(keys, keyOf(k, &of.tail, t.texts[0]))
		if strings.HasPrefix(t.texts[0], ".") {
			of.dots = true
		} else {
			of.tails = append(of.tails, len(t.texts[0]))
		}
	case opNum:
		for _, n := range t.nums {
			keys = append(keys, keyOf(k, &of.num, n))
		}
	case opMin:
		keys = append(keys, k.next())
		of.min = append(of.min, boundKey{t.nums[0], keys[0]})
	case opMax:
		keys = append(keys, k.next())
		of.max = append(of.max, boundKey{t.nums[0], keys[0]})
	case opNet:
		keys = append(keys, keyOf(k, &k.nets, t.net))
		i := family(t.net.Addr())
		k.bits[i] = append(k.bits[i], t.net.Bits())
	default:
		return nil, false
	}
	k.fields = k.fields.With(t.field)
	return keys, true
}

// family is the place of an address family in keyTable.bits.
func family(a netip.Addr) int {
	if a.BitLen() == 32 {
		return 0
	}
	return 1
}

func (k *keyTable) next() uint32 {
	k.uses = append(k.uses, 0)
	return uint32(len(k.uses) - 1)
}

func keyOf[V comparable](k *keyTable, m *map[V]uint32, v V) uint32 {
	if *m == nil {
		*m = map[V]uint32{}
	}
	key, ok := (*m)[v]
	if !ok {
		key = k.next()
		(*m)[v] = key
	}
	return key
}

// sort ends the adding.
func (k *keyTable) sort() {
	byBound := func(a, b boundKey) int { return cmp.Compare(a.n, b.n) }
	for x := range k.of {
		of := &k.of[x]
		slices.SortFunc(of.min, byBound)
		slices.SortFunc(of.max, byBound)
		slices.Sort(of.tails)
		of.tails = slices.Compact(of.tails)
	}
	for i := range k.bits {
		slices.Sort(k.bits[i])
		k.bits[i] = slices.Compact(k.bits[i])
	}
}

// hits appends the rules of a plan that have a key which is true of the known
// fields.
func (p *plan) hits(f *Facts, out []uint32) []uint32 {
	k := &p.ix.keys
	for set := k.fields & p.at.known; set != 0; set &= set - 1 {
		x := set.first()
		of := &k.of[x]
		if len(of.is)+len(of.apex)+len(of.tail) > 0 {
			out = p.textHits(of, f.text(x), out)
		}
		if len(of.num)+len(of.min)+len(of.max) > 0 {
			out = p.numberHits(of, f.number(x), out)
		}
		if x == NetworkIP && f.ip.IsValid() && f.ip.Zone() == "" {
			for _, bits := range k.bits[family(f.ip)] {
				if net, err := f.ip.Prefix(bits); err == nil {
					out = p.hit(k.nets, net, out)
				}
			}
		}
	}
	return out
}

func (p *plan) textHits(of *fieldKeys, v string, out []uint32) []uint32 {
	out = hitsOf(p, of.is, v, out)
	if len(of.apex) > 0 {
		out = hitsOf(p, of.apex, v, out)
	}
	if len(of.apex) > 0 || of.dots {
		for i := 0; i < len(v); i++ {
			if v[i] != '.' {
				continue
			}
			if len(of.apex) > 0 {
				out = hitsOf(p, of.apex, v[i+1:], out)
			}
			if of.dots {
				out = hitsOf(p, of.tail, v[i:], out)
			}
		}
	}
	for _, n := range of.tails {
		if n > len(v) {
			break
		}
		out = hitsOf(p, of.tail, v[len(v)-n:], out)
	}
	return out
}

func (p *plan) numberHits(of *fieldKeys, v int64, out []uint32) []uint32 {
	out = hitsOf(p, of.num, v, out)
	for _, b := range of.min {
		if b.n > v {
			break
		}
		out = p.rulesOf(b.key, out)
	}
	for _, b := range slices.Backward(of.max) {
		if b.n < v {
			break
		}
		out = p.rulesOf(b.key, out)
	}
	return out
}

func (p *plan) hit(m map[netip.Prefix]uint32, v netip.Prefix, out []uint32) []uint32 {
	return hitsOf(p, m, v, out)
}

func hitsOf[V comparable](p *plan, m map[V]uint32, v V, out []uint32) []uint32 {
	if key, ok := m[v]; ok {
		return p.rulesOf(key, out)
	}
	return out
}

// rulesOf appends the rules that have the key in this plan.
func (p *plan) rulesOf(key uint32, out []uint32) []uint32 {
	return append(out, p.rules[p.starts[key]:p.starts[key+1]]...)
}
