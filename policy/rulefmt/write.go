package rulefmt

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// write writes the document anew.
func (d *document) write() []byte {
	w := &writer{}
	if len(d.head) > 0 {
		w.comments(d.head, 0)
		w.line("")
	}
	for i, it := range d.root.children {
		if i > 0 {
			w.line("")
		}
		w.item(it, 0, "")
	}
	if len(d.foot) > 0 {
		w.line("")
		w.comments(d.foot, 0)
	}
	return w.b.Bytes()
}

type writer struct{ b bytes.Buffer }

func (w *writer) line(s string) { w.b.WriteString(strings.TrimRight(s, " ") + "\n") }

func (w *writer) comments(lines []string, indent int) {
	for _, c := range lines {
		w.line(strings.Repeat(" ", indent) + c)
	}
}

// item writes a key with its value, or an entry of a list. lead is what
// stands before it in its first line instead of spaces.
func (w *writer) item(it *item, indent int, lead string) {
	if lead == "" {
		lead = strings.Repeat(" ", indent)
		w.comments(it.before, indent)
	}
	head := lead
	if it.key != nil {
		head += properties(it.key) + word(it.key) + ":"
	}
	w.value(it, head, indent)
	w.comments(it.after, indent)
}

func (w *writer) value(it *item, head string, indent int) {
	n := it.value
	beside := ""
	if len(it.beside) > 0 {
		beside = " " + strings.Join(it.beside, " ")
	}
	if p := properties(n); p != "" {
		head += " " + strings.TrimRight(p, " ")
	}
	switch {
	case n.Kind == yaml.AliasNode:
		w.line(head + " *" + n.Value + beside)
	case n.Kind == yaml.ScalarNode:
		w.scalar(it, head, indent, beside)
	case len(it.children) == 0:
		w.line(head + map[yaml.Kind]string{yaml.MappingNode: " {}", yaml.SequenceNode: " []"}[n.Kind] + beside)
	case n.Kind == yaml.SequenceNode && it.short():
		var words []string
		for _, c := range it.children {
			words = append(words, inline(c.value))
		}
		w.line(head + " [" + strings.Join(words, ", ") + "]" + beside)
	default:
		w.line(head + beside)
		w.children(it, indent+2)
	}
}

func (w *writer) children(it *item, indent int) {
	for i, c := range it.children {
		if it.value.Kind == yaml.MappingNode {
			w.item(c, indent, "")
			continue
		}
		if i > 0 && c.value.Kind == yaml.MappingNode {
			w.line("")
		}
		w.comments(c.before, indent)
		w.entry(c, indent)
		w.comments(c.after, indent)
	}
}

// entry writes an entry of a list: the first key of a map stands beside the
// dash, if nothing else does.
func (w *writer) entry(c *item, indent int) {
	dash := strings.Repeat(" ", indent) + "- "
	if c.value.Kind != yaml.MappingNode || len(c.children) == 0 || properties(c.value) != "" || len(c.beside) > 0 {
		w.value(c, strings.TrimRight(dash, " "), indent)
		return
	}
	for i, k := range c.children {
		lead := ""
		if i == 0 {
			lead = dash
		}
		w.item(k, indent+2, lead)
	}
}

// short reports whether a list can stand in one line: few scalars, such as
// ports.
func (it *item) short() bool {
	size := 0
	for _, c := range it.children {
		if c.value.Kind != yaml.ScalarNode || len(c.before)+len(c.beside)+len(c.after) > 0 {
			return false
		}
		size += len(inline(c.value)) + 2
	}
	return size <= width/2
}

// properties are a node's tag and anchor, as written.
func properties(n *yaml.Node) string {
	out := ""
	if n.Style&yaml.TaggedStyle != 0 {
		out = n.Tag + " "
	}
	if n.Anchor != "" {
		out += "&" + n.Anchor + " "
	}
	return out
}

func inline(n *yaml.Node) string {
	if n.ShortTag() == "!!str" {
		return strings.TrimSpace(properties(n) + quoted(n.Value))
	}
	return strings.TrimSpace(properties(n) + n.Value)
}

var (
	bareKey = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)
	bareID  = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]*$`)
)

// word writes a key.
func word(n *yaml.Node) string {
	if n.ShortTag() != "!!str" || bareKey.MatchString(n.Value) && n.Style == 0 {
		return n.Value
	}
	if bareKey.MatchString(n.Value) && !looksOther(n.Value) {
		return n.Value
	}
	return quoted(n.Value)
}

// looksOther reports whether a bare word would be read as something else than
// a string.
func looksOther(s string) bool {
	n := yaml.Node{Kind: yaml.ScalarNode, Value: s}
	return n.ShortTag() != "!!str"
}

// quoted writes a string in the quotes that need the fewest escapes.
func quoted(s string) string {
	for _, r := range s {
		if r != ' ' && !unicode.IsPrint(r) {
			return escaped(s)
		}
	}
	if strings.Contains(s, `"`) || strings.Contains(s, `\`) {
		return "'" + strings.ReplaceAll(s, "'", "''") + "'"
	}
	return `"` + s + `"`
}

// escaped writes a double-quoted string with YAML's escapes.
func escaped(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteString(`\` + string(r))
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == ' ' || unicode.IsPrint(r):
			b.WriteRune(r)
		case r <= 0xff:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// isCode reports whether the item is a text in CEL, where white space around
// it says nothing.
func (it *item) isCode() bool {
	if it.key == nil {
		return false
	}
	p := it.parent
	return it.key.Value == "condition" || p != nil && p.key != nil && p.key.Value == "definitions"
}

// scalar writes a value: a word, a quoted text, or lines.
func (w *writer) scalar(it *item, head string, indent int, beside string) {
	n := it.value
	if n.ShortTag() != "!!str" {
		w.line(strings.TrimRight(head+" "+n.Value, " ") + beside)
		return
	}
	s := n.Value
	if it.isCode() {
		s = strings.TrimSpace(s)
	}
	pad := strings.Repeat(" ", indent+2)
	switch {
	case strings.Contains(s, "\n") && literal(s):
		w.line(head + " |" + chomp(s, it.isCode()) + beside)
		for _, l := range strings.Split(strings.TrimSuffix(s, "\n"), "\n") {
			w.line(pad + l)
		}
	case it.isCode():
		if lines := fold(s, width-len(pad)); len(lines) > 1 && len(head)+len(s)+3 > width {
			w.line(head + " >-" + beside)
			for _, l := range lines {
				w.line(pad + l)
			}
			return
		}
		w.line(head + " " + code(s) + beside)
	case bareID.MatchString(s) && !looksOther(s) && (it.key == nil || it.key.Value != "description"):
		w.line(head + " " + s + beside)
	case it.key != nil && it.key.Value == "version":
		w.line(head + " " + strconv.Quote(s) + beside)
	default:
		w.line(head + " " + quoted(s) + beside)
	}
}

// literal reports whether a text can be written as lines that are what it is.
func literal(s string) bool {
	for _, r := range s {
		if r != '\n' && r != ' ' && !unicode.IsPrint(r) {
			return false
		}
	}
	for _, l := range strings.Split(s, "\n") {
		if strings.TrimRight(l, " ") != l {
			return false
		}
	}
	return s[0] != ' ' && s[0] != '\n' && !strings.HasSuffix(s, "\n\n")
}

func chomp(s string, code bool) string {
	if code || strings.HasSuffix(s, "\n") {
		return ""
	}
	return "-"
}

// code writes a condition in one line: in single quotes, so that its own
// double quotes stay as they are.
func code(s string) string {
	for _, r := range s {
		if r != ' ' && !unicode.IsPrint(r) {
			return escaped(s)
		}
	}
	if strings.Contains(s, "'") && !strings.ContainsAny(s, `"\`) {
		return `"` + s + `"`
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}
