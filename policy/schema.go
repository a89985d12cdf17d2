package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Limits of one load. A file or set beyond them does not load.
const (
	MaxFileSize  = 1 << 20  // bytes of one rule file
	MaxFiles     = 1024     // rule files of one load
	MaxTotalSize = 16 << 20 // bytes of all rule files together
	MaxRules     = 10000    // rules of one load
	MaxID        = 128      // bytes of a rule's id
	MaxPorts     = 128      // entries of egress.ports
	maxDepth     = 64       // definitions within definitions
	maxExpanded  = 64 << 20 // bytes of all conditions with their definitions in them
)

// A ruleFile is one parsed file: the rules without their compiled conditions.
type ruleFile struct {
	src   Source
	lines lines
	rules []*fileRule
	defs  map[string]*definition
	order []string // names of the definitions as they stand in the file
	errs  ErrorList
}

// A fileRule is a rule with the place of its parts in the file.
type fileRule struct {
	Rule
	line int // of the rule itself
	text scalar
}

// A scalar is a text of the file with its lines.
type scalar struct {
	text  string
	marks marks
}

// parseFile reads one file. All findings are in the result's errs.
func parseFile(src Source) *ruleFile {
	f := &ruleFile{src: src, lines: linesOf(src.Data), defs: map[string]*definition{}}
	if len(src.Data) > MaxFileSize {
		f.fail(0, "the file is larger than %d bytes", MaxFileSize)
		return f
	}
	if !utf8.Valid(src.Data) {
		f.fail(0, "the file is not UTF-8")
		return f
	}
	if !f.disguised() {
		return f
	}
	dec := yaml.NewDecoder(bytes.NewReader(src.Data))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			f.fail(1, `the file is empty: it needs at least version: "1"`)
		} else {
			f.yamlError(err)
		}
		return f
	}
	if err := dec.Decode(&more); err == nil {
		f.fail(more.Line, "one file holds one document; this is a second")
	} else if !errors.Is(err, io.EOF) {
		f.yamlError(err)
	}
	f.document(&doc)
	return f
}

func (f *ruleFile) fail(line int, format string, args ...any) {
	f.errs.add(f.src.Path, line, format, args...)
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(.*)$`)

func (f *ruleFile) yamlError(err error) {
	m := yamlLine.FindStringSubmatch(strings.SplitN(err.Error(), "\n", 2)[0])
	if m == nil {
		f.fail(0, "YAML parse error: %v", err)
		return
	}
	line, _ := strconv.Atoi(m[1])
	f.fail(max(line, 1), "YAML parse error: %s", m[2])
}

func (f *ruleFile) document(doc *yaml.Node) {
	if doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 {
		doc = doc.Content[0]
	}
	top := f.mapping(doc, "the file", "version", "definitions", "rules")
	if top == nil {
		return
	}
	f.version(top["version"], doc.Line)
	if n := top["definitions"]; !isNull(n) {
		f.definitions(n)
	}
	n := resolve(top["rules"])
	if isNull(n) {
		return
	}
	if n.Kind != yaml.SequenceNode {
		f.fail(n.Line, "rules must be a list")
		return
	}
	for _, item := range n.Content {
		f.rule(item)
	}
}

func (f *ruleFile) version(n *yaml.Node, line int) {
	n = resolve(n)
	switch {
	case n == nil:
		f.fail(line, `version is missing: write version: "1"`)
	case n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str":
		f.fail(n.Line, `version must be the string "1", in quotes`)
	case n.Value != "1":
		f.fail(n.Line, "unsupported version %q (only \"1\" is supported)", n.Value)
	}
}

func (f *ruleFile) definitions(n *yaml.Node) {
	n = resolve(n)
	if n.Kind != yaml.MappingNode {
		f.fail(n.Line, "definitions must be a map of names to CEL texts")
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := resolve(n.Content[i]), resolve(n.Content[i+1])
		text, ok := f.text(v, "definition "+k.Value)
		switch {
		case k.Kind != yaml.ScalarNode || !isDefinitionName(k.Value):
			f.fail(k.Line, "'%s' cannot be a definition's name: letters, digits and _ only", k.Value)
		case f.defs[k.Value] != nil:
			f.fail(k.Line, "definition '%s' is written twice", k.Value)
		case ok:
			f.defs[k.Value] = &definition{name: k.Value, line: k.Line, scalar: text}
			f.order = append(f.order, k.Value)
		}
	}
}

func (f *ruleFile) rule(n *yaml.Node) {
	n = resolve(n)
	m := f.mapping(n, "a rule", "id", "description", "condition", "action", "priority", "log", "egress", "enrich")
	if m == nil {
		return
	}
	r := &fileRule{line: n.Line, Rule: Rule{
		Priority: 100, Mode: ModeProxy, File: f.src.Path, Origin: f.src.Origin, Line: n.Line}}
	before := len(f.errs)
	f.id(r, m["id"])
	if d := resolve(m["description"]); !isNull(d) {
		t, _ := f.text(d, "description")
		r.Description = t.text
	}
	f.condition(r, m["condition"])
	f.action(r, m["action"])
	if p := resolve(m["priority"]); !isNull(p) {
		r.Priority = int32(f.integer(p, "priority", math.MinInt32, math.MaxInt32))
	}
	r.Log = f.boolean(m["log"], "log")
	if e := m["enrich"]; e != nil {
		f.fail(e.Line, "enrich is not supported: a rule allows or blocks")
	}
	if e := resolve(m["egress"]); !isNull(e) {
		f.egress(r, e)
	}
	switch {
	case len(f.errs) == before:
		f.rules = append(f.rules, r)
	case r.text.text != "":
		f.alone(n, r.text)
	}
}

// alone has the condition of a rule that is wrong otherwise compiled as
// definitions are, by itself: all of its findings are told at once. The name
// is one that no definition can have.
func (f *ruleFile) alone(rule *yaml.Node, text scalar) {
	name := fmt.Sprintf("rule at %d:%d", rule.Line, rule.Column)
	if f.defs[name] == nil {
		f.defs[name] = &definition{name: name, line: rule.Line, scalar: text}
		f.order = append(f.order, name)
	}
}

// reservedIDs are words of the host API's paths below /rules.
var reservedIDs = map[string]bool{"active": true, "counters": true, "flush": true, "reload": true}

// ReservedIDs returns the ids that no rule can have.
func ReservedIDs() []string { return slices.Sorted(maps.Keys(reservedIDs)) }

var validID = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

func (f *ruleFile) id(r *fileRule, n *yaml.Node) {
	n = resolve(n)
	if isNull(n) {
		f.fail(r.line, "the rule has no id")
		return
	}
	t, ok := f.text(n, "id")
	switch {
	case !ok:
	case len(t.text) > MaxID:
		f.fail(n.Line, "the id is longer than %d characters", MaxID)
	case !validID.MatchString(t.text):
		f.fail(n.Line, "the id %q may hold only letters, digits, '.', '_' and '-'", t.text)
	case reservedIDs[t.text]:
		f.fail(n.Line, "the id %q is reserved", t.text)
	}
	r.ID = t.text
}

func (f *ruleFile) condition(r *fileRule, n *yaml.Node) {
	n = resolve(n)
	if isNull(n) {
		f.fail(r.line, "the rule has no condition")
		return
	}
	t, ok := f.text(n, "condition")
	if !ok {
		return
	}
	r.text, r.Condition, r.Line = t, t.text, t.marks.line(0)
}

func (f *ruleFile) action(r *fileRule, n *yaml.Node) {
	n = resolve(n)
	if isNull(n) {
		f.fail(r.line, "the rule has no action: write allow or block")
		return
	}
	switch what := n.Value; {
	case !isString(n):
		f.fail(n.Line, "action must be allow or block")
	case what == "allow":
	case what == "block":
		r.Block = true
	case what == "deny":
		f.fail(n.Line, "action: deny is not an action: write action: block")
	case what == "enrich":
		f.fail(n.Line, "action: enrich is not supported: write action: allow or action: block")
	default:
		f.fail(n.Line, "action must be allow or block, not %q", n.Value)
	}
}

func (f *ruleFile) egress(r *fileRule, n *yaml.Node) {
	m := f.mapping(n, "egress", "mode", "ports", "allow_private_ips")
	if m == nil {
		return
	}
	if r.Block {
		f.fail(n.Line, "egress belongs to allow rules only")
	}
	if mode := resolve(m["mode"]); !isNull(mode) {
		r.Egress = true
		switch r.Mode = EgressMode(mode.Value); {
		case !isString(mode):
			f.fail(mode.Line, "mode must be proxy or direct_ip")
		case r.Mode == ModeProxy || r.Mode == ModeDirectIP:
		case r.Mode == "intercept":
			f.fail(mode.Line, "mode: intercept is not supported, TLS is not opened: write mode: proxy")
		default:
			f.fail(mode.Line, "mode must be proxy or direct_ip, not %q", mode.Value)
		}
	}
	if ports := resolve(m["ports"]); !isNull(ports) {
		f.ports(r, ports)
	}
	r.AllowPrivate = f.boolean(m["allow_private_ips"], "allow_private_ips")
}

func (f *ruleFile) ports(r *fileRule, n *yaml.Node) {
	if n.Kind != yaml.SequenceNode {
		f.fail(n.Line, "ports must be a list, such as [443]")
		return
	}
	if len(n.Content) > MaxPorts {
		f.fail(n.Line, "ports holds more than %d entries: write a range on network.port in the condition", MaxPorts)
		return
	}
	for _, p := range n.Content {
		r.Ports = append(r.Ports, uint16(f.integer(resolve(p), "a port", 1, math.MaxUint16)))
	}
}
