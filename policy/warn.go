package policy

import (
	"fmt"
	"slices"
	"strings"
)

// warnings lists what is legal and probably not meant, as path:line: text.
func (l *loader) warnings(rules []*Rule) []string {
	w := &warner{rules: rules}
	for _, f := range l.files {
		for _, name := range f.order {
			if d := f.defs[name]; !d.used {
				w.at(f.src.Path, d.line, "definition '%s' is not used", name)
			}
		}
	}
	if len(rules) == 0 {
		return append(w.out, "no rules are loaded: everything is blocked")
	}
	w.survey()
	for i, r := range rules {
		w.layers(r)
		if i > 0 && r.Origin == Operator {
			w.shadowed(i, r)
		}
		if !r.Block {
			w.allowRule(r)
		}
	}
	w.overlaps()
	return w.out
}

type warner struct {
	rules []*Rule
	out   []string
	all   int // place of the first rule that matches everything, or -1
	first map[*compiled]*Rule
	// exact and below are the names that allow rules compare questions with;
	// any is set where one allows questions in another way.
	exact, below map[string]bool
	any          bool
}

func (w *warner) at(path string, line int, format string, args ...any) {
	w.out = append(w.out, fmt.Sprintf("%s:%d: %s", path, line, fmt.Sprintf(format, args...)))
}

func (w *warner) rule(r *Rule, format string, args ...any) {
	w.at(r.File, r.Line, "rule '%s' "+format, append([]any{r.ID}, args...)...)
}

// survey finds the first rule that matches everything, and which questions
// can be answered.
func (w *warner) survey() {
	w.all, w.first, w.exact, w.below = -1, map[*compiled]*Rule{}, map[string]bool{}, map[string]bool{}
	for i, r := range w.rules {
		if w.first[r.c] == nil {
			w.first[r.c] = r
		}
		if r.c.fields == 0 && len(r.Ports) == 0 && r.Mode == ModeProxy {
			if v, _ := eval(&r.c.parts[0], (*allowView)(NewFacts(LayerRaw, Who{}))); v == yes {
				w.any = w.any || !r.Block
				if w.all < 0 {
					w.all = i
				}
			}
		}
		if !r.Block && r.c.fields.Has(DNSQuery) {
			w.questions(r)
		}
	}
}

func (w *warner) questions(r *Rule) {
	named := false
	for _, u := range r.c.texts {
		switch {
		case u.field != DNSQuery:
			continue
		case u.below:
			w.below[strings.Trim(u.value, ".")] = true
		default:
			w.exact[u.value] = true
		}
		named = true
	}
	w.any = w.any || !named
}

// layerFields are the fields that a layer can know (contract 2.3).
var layerFields = func() [numLayers]FieldSet {
	var out [numLayers]FieldSet
	for l := LayerDNS; l < numLayers; l++ {
		f := NewFacts(l, Who{})
		switch l {
		case LayerDNS:
			f.SetQuestion("a", "A")
		case LayerHello:
			f.SetHello(TLS{SNI: "a", ALPN: []string{"h2"}, Version: "1.3"})
		case LayerConnect:
			f.SetConnect("a", false)
		case LayerRequest:
			f.SetRequest(HTTP{Host: "a"}, false)
		case LayerFlow, LayerRaw:
			f.SetName("a")
		case LayerRun:
			f.SetRun(Run{})
			f.SetCall(Call{Host: "a", HTTP: &HTTP{}})
		}
		if l != LayerRun && l != LayerDNS {
			f.states(Known, NetworkIP, NetworkPort, NetworkProtocol)
		}
		f.states(Known, ProcessExe, ProcessName, ProcessArgs)
		for x := Field(0); x < NumFields; x++ {
			if f.state[x] == Known {
				out[l] = out[l].With(x)
			}
		}
	}
	return out
}()

// layers warns of a condition that no layer can make true: its fields are
// never known together, in any alternative of its top-level ||.
func (w *warner) layers(r *Rule) {
	for x := DockerImage; x < NumFields; x++ {
		if r.c.fields.Has(x) {
			w.rule(r, "uses %s, which nothing here knows: it never matches by that", x)
			return
		}
	}
	if r.Block {
		return // an absent field is empty in a block
	}
	for _, need := range r.c.needs {
		for l := LayerDNS; l < numLayers; l++ {
			if need&^layerFields[l] == 0 {
				return
			}
		}
	}
	if len(r.c.needs) > 0 {
		w.rule(r, "can match on no layer: no layer knows %s together", r.c.fields)
	}
}

// shadowed warns of a rule that stands behind one that always decides.
func (w *warner) shadowed(i int, r *Rule) {
	if w.all >= 0 && w.all < i {
		w.rule(r, "is never asked: rule '%s' before it matches everything", w.rules[w.all].ID)
		return
	}
	if before := w.first[r.c]; before != r && slices.Equal(before.Ports, r.Ports) && before.Mode == r.Mode {
		w.rule(r, "is shadowed by rule '%s', which has the same condition", before.ID)
	}
}

const processFields = FieldSet(1<<ProcessExe | 1<<ProcessName | 1<<ProcessArgs)

// allowRule warns of what one allow rule opens or fails to open.
func (w *warner) allowRule(r *Rule) {
	if r.c.fields != 0 && r.c.fields&^processFields == 0 {
		w.rule(r, "is narrowed only by process.*, which a program can hide or impersonate")
	}
	names, wide := false, false
	for _, u := range r.c.texts {
		switch u.field {
		case NetworkHostname, HTTPHost, TLSSNI:
			names = true
			if !w.resolvable(u) {
				w.rule(r, "allows %s by %s, but no rule lets DNS resolve it", u.value, u.field)
			}
		case DNSQuery:
			wide = wide || u.below
		}
	}
	if r.Mode == ModeDirectIP && wide {
		w.rule(r, "opens every address that any name below a suffix resolves to, unread (direct_ip)")
	}
	if names && r.c.fields.Has(NetworkHostname) && !r.c.fields.Has(NetworkPort) && len(r.Ports) == 0 {
		w.rule(r, "allows by network.hostname without a port: it opens every TCP and UDP port of the name")
	}
}

// resolvable reports whether some allow rule could answer a question for the
// name, or for something below the suffix.
func (w *warner) resolvable(u textUse) bool {
	name := strings.Trim(u.value, ".")
	if w.any || w.exact[name] || u.value == "" {
		return true
	}
	for {
		if w.below[name] {
			return true
		}
		_, up, ok := strings.Cut(name, ".")
		if !ok {
			return false
		}
		name = up
	}
}

// overlaps warns of allow and block of one priority that can both match: the
// order of files decides, which is easily changed by accident. It looks at
// rules that name the same constants.
func (w *warner) overlaps() {
	seen := map[textUse][]*Rule{}
	for _, r := range w.rules {
		done := map[*Rule]bool{}
		for _, u := range r.c.texts {
			key := textUse{u.field, u.value, false}
			for _, o := range seen[key] {
				if !done[o] && len(done) < maxTried {
					done[o] = true
					w.overlap(o, r, u)
				}
			}
			if len(seen[key]) < maxTried {
				seen[key] = append(seen[key], r)
			}
		}
	}
}

func (w *warner) overlap(o, r *Rule, u textUse) {
	switch {
	case o.Block == r.Block:
	case o.Priority == r.Priority && o.Origin == r.Origin:
		w.rule(r, "and rule '%s' both match %s %s with equal priority, one allows and one blocks: their order in the files decides", o.ID, u.field, u.value)
	case o.Block && r.Mode == ModeDirectIP && o.c.fields&laterFields != 0:
		w.rule(r, "is direct_ip, and rule '%s' before it blocks by fields that only its bytes tell: flows wait to be read", o.ID)
	}
}

// laterFields are those that a first packet does not know yet.
var laterFields = func() (s FieldSet) {
	for x := HTTPHost; x <= TLSVersion; x++ {
		s = s.With(x)
	}
	return s
}()
