package suggest

import (
	"fmt"
	"path"
	"slices"

	"outcall/policy"
	"outcall/policy/replay"
)

// maxID is the length of a rule's id (contract 2.2).
const maxID = 128

// maxProcesses is how many programs a rule's description names.
const maxProcesses = 4

// A builder gathers what the attempts of a log need.
type builder struct {
	log *replay.Log
	opt Options

	wants  []*gathered
	at     map[want]*gathered
	byHost map[string][]*gathered
}

// A gathered want has all ports and attempts.
type gathered struct {
	want
	ports     []uint16
	attempts  int
	processes []string
}

func newBuilder(log *replay.Log, opt Options) *builder {
	b := &builder{log: log, opt: opt, at: map[want]*gathered{}, byHost: map[string][]*gathered{}}
	for _, a := range log.Attempts {
		if w, ok := wantOf(a); ok && b.wanted(a) {
			b.gather(w, a)
		}
	}
	return b
}

// wanted reports an attempt that the rules shall allow.
func (b *builder) wanted(a *replay.Attempt) bool {
	switch a.Verdict {
	case replay.Allow:
		return true
	case replay.WouldDeny:
		return b.opt.WouldDeny && a.Rule == policy.DefaultPolicy
	}
	return false
}

func (b *builder) gather(w want, a *replay.Attempt) {
	port := w.port
	w.port = 0
	g := b.at[w]
	if g == nil {
		g = &gathered{want: w}
		b.at[w] = g
		b.wants = append(b.wants, g)
		b.byHost[w.host] = append(b.byHost[w.host], g)
	}
	if !slices.Contains(g.ports, port) {
		g.ports = append(g.ports, port)
	}
	g.attempts += a.Count
	if p := a.Event.Process; p != nil && p.Exe != "" {
		if name := path.Base(p.Exe); !slices.Contains(g.processes, name) && len(g.processes) < maxProcesses {
			g.processes = append(g.processes, name)
		}
	}
}

// exact returns one rule for each want that no other covers.
func (b *builder) exact() []Rule {
	var out []Rule
	for _, g := range b.wants {
		ports := slices.DeleteFunc(slices.Sorted(slices.Values(g.ports)), func(p uint16) bool { return b.covered(g.want, p) })
		if len(ports) == 0 {
			continue
		}
		r := g.rule(ports)
		if len(r.ID) > maxID {
			r.ID = fmt.Sprintf("%s-%d", kindWords[g.kind], len(out)+1)
		}
		r.Attempts, r.Processes = g.attempts, g.processes
		out = append(out, r)
	}
	return out
}

// covered reports that another want's rule allows this one, too: every rule
// for a name answers its questions, any TCP is TLS and HTTP, and what was
// allowed needs no rule for what would have been denied.
func (b *builder) covered(w want, port uint16) bool {
	for _, o := range b.byHost[w.host] {
		if o.want == w || o.kind == kindAddr != (w.kind == kindAddr) || o.would && !w.would {
			continue
		}
		switch {
		case w.kind == kindName && (o.kind != kindName || !o.would) && o.kind != kindType:
			return true
		case w.private && !o.private || !slices.Contains(o.ports, port):
		case o.kind == w.kind && o.proto == w.proto && o.typ == w.typ && (w.would != o.would || w.private != o.private):
			return true
		case w.kind == kindWeb && o.kind == kindTCP && w.proto == policy.TCP:
			return true
		case w.kind == kindWeb && o.kind == kindWeb && o.proto != w.proto && o.proto == policy.TCP:
			return true // http.host holds for QUIC, too
		}
	}
	return false
}
