package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
)

// A Warning is something in a rule file that is legal and probably not meant.
type Warning struct {
	Path string // "" where no file is meant
	Line int
	Rule string // the rule's id, "" where none is meant
	Code string // one of WarningCodes
	Msg  string
}

// String returns the warning as path:line: text.
func (w Warning) String() string {
	if w.Path == "" {
		return w.Msg
	}
	return fmt.Sprintf("%s:%d: %s", w.Path, w.Line, w.Msg)
}

// The codes of warnings. They are stable: CI systems keep lists of them.
const (
	WarnUnused       = "unused-definition"
	WarnNoRules      = "no-rules"
	WarnShadowed     = "shadowed-rule"
	WarnOverlap      = "equal-priority"
	WarnNoLayer      = "no-layer"
	WarnUnresolvable = "unresolvable-name"
	WarnProcess      = "process-only"
	WarnWideDirect   = "wide-direct-ip"
	WarnReadDirect   = "block-before-direct-ip"
	WarnAnyPort      = "any-port"
	WarnAllBut       = "all-but"
	WarnNever        = "never-equal"
	WarnPart         = "part-of-a-name"
	WarnConstant     = "constant"
	WarnMissing      = "missing-header"
	WarnTooMany      = "not-compared"
)

// WarningCodes tells each code and what it means, in one line.
var WarningCodes = map[string]string{
	WarnUnused:       "a definition that no rule uses",
	WarnNoRules:      "no rules are loaded: everything is blocked",
	WarnShadowed:     "a rule that an earlier one leaves nothing to decide",
	WarnOverlap:      "an allow and a block of equal priority match the same: the order of the files decides",
	WarnNoLayer:      "a condition that no layer can satisfy",
	WarnUnresolvable: "an allowed name that no rule lets DNS resolve",
	WarnProcess:      "an allow that only process.* narrows, which a program can hide or impersonate",
	WarnWideDirect:   "direct_ip for names that the rule does not name one by one",
	WarnReadDirect:   "a block by what only bytes tell stands before a direct_ip rule: its flows wait to be read",
	WarnAnyPort:      "an allow by network.hostname without a port: every TCP and UDP port of the name",
	WarnAllBut:       "an allow of all names or addresses but some",
	WarnNever:        "a comparison with a value that the field never has",
	WarnPart:         "a part of a name or address that ends where no label or number ends",
	WarnConstant:     "a part of a condition that is the same whatever the facts are",
	WarnMissing:      "a block that asks for a header without asking whether it is there",
	WarnTooMany:      "more rules are alike than are compared with each other",
}

// warnings lists what is legal and probably not meant, in the order of files
// and lines.
func (l *loader) warnings(rules []*Rule) []Warning {
	w := &warner{rules: rules, text: map[string]func() (string, bool){}, shapes: map[*Rule]shape{}}
	for _, f := range l.files {
		for _, name := range f.order {
			if d := f.defs[name]; !d.used {
				w.add(Warning{f.src.Path, d.line, "", WarnUnused, fmt.Sprintf("definition '%s' is not used", name)})
			}
		}
		for _, r := range f.rules {
			w.text[r.ID] = func() (string, bool) {
				s, bad := f.expand(r.text)
				return s.text, bad == nil
			}
		}
	}
	if len(rules) == 0 {
		w.add(Warning{Code: WarnNoRules, Msg: "no rules are loaded: everything is blocked"})
		return w.out
	}
	w.survey()
	for _, r := range rules {
		w.layers(r)
		w.constants(r)
		for _, d := range r.c.doubts {
			if d.of(r) {
				w.rule(r, d.code, "%s", d.msg)
			}
		}
		if !r.Block {
			w.allowRule(r)
		}
	}
	w.compareAll()
	slices.SortStableFunc(w.out, func(a, b Warning) int {
		return cmp.Or(l.order[a.Path]-l.order[b.Path], a.Line-b.Line)
	})
	return w.out
}

type warner struct {
	rules []*Rule
	out   []Warning
	text  map[string]func() (string, bool) // the expanded condition of each rule, by id
	// exact and below are the names that allow rules compare questions with;
	// any is set where one allows questions in another way.
	exact, below map[string]bool
	any          bool

	env    *cel.Env // made when the first condition is looked into
	shapes map[*Rule]shape
	parsed int  // conditions that were looked into
	left   bool // more conditions than maxShapes asked to be looked into
}

func (w *warner) add(f Warning) { w.out = append(w.out, f) }

func (w *warner) rule(r *Rule, code, format string, args ...any) {
	w.add(Warning{r.File, r.Line, r.ID, code, fmt.Sprintf("rule '%s' "+format, append([]any{r.ID}, args...)...)})
}

// survey finds which questions can be answered.
func (w *warner) survey() {
	w.exact, w.below = map[string]bool{}, map[string]bool{}
	for _, r := range w.rules {
		if r.Block {
			continue
		}
		if r.c.fields.Has(DNSQuery) {
			w.questions(r)
		} else if r.c.fields&^layerFields[LayerDNS] == 0 {
			w.any = true // nothing in it hinders a question
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

// onOneLayer reports whether some layer can know all of the fields.
func onOneLayer(need FieldSet) bool {
	for l := LayerDNS; l < numLayers; l++ {
		if need&^layerFields[l] == 0 {
			return true
		}
	}
	return false
}

// layers warns of a condition that no layer can make true: its fields are
// never known together, or it contradicts itself, in every alternative.
func (w *warner) layers(r *Rule) {
	for x := DockerImage; x < NumFields; x++ {
		if r.c.fields.Has(x) {
			w.rule(r, WarnNoLayer, "uses %s, which nothing here knows: it never matches by that", x)
			return
		}
	}
	if r.c.contradictable() {
		if s, ok := w.shape(r); ok && !slices.ContainsFunc(s, cube.satisfiable) {
			w.rule(r, WarnNoLayer, "can match on no layer: its comparisons contradict each other")
			return
		}
	}
	if r.Block || len(r.c.needs) == 0 {
		return // an absent field is empty in a block
	}
	if !slices.ContainsFunc(r.c.needs, onOneLayer) {
		w.rule(r, WarnNoLayer, "can match on no layer: no layer knows %s together", r.c.fields)
	}
}

// contradictable reports whether a field is compared more than once, so that
// it is worth while to look into the condition.
func (c *compiled) contradictable() bool {
	if len(c.port.consts) > 1 || len(c.ip.lits) > 1 {
		return true
	}
	var seen FieldSet
	for _, u := range c.texts {
		if seen.Has(u.field) {
			return true
		}
		seen = seen.With(u.field)
	}
	return c.fields == 0
}

// laterFields are those that a first packet does not know yet.
var laterFields = func() (s FieldSet) {
	for x := HTTPHost; x <= TLSVersion; x++ {
		s = s.With(x)
	}
	return s
}()
