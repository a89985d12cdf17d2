package policy

import (
	"regexp"
	"slices"
	"strconv"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// resolve follows an alias. An alias of an alias cannot be written.
func resolve(n *yaml.Node) *yaml.Node {
	if n != nil && n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool {
	n = resolve(n)
	return n == nil || n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// mapping returns the values of a map with known keys, or nil.
func (f *ruleFile) mapping(n *yaml.Node, what string, known ...string) map[string]*yaml.Node {
	n = resolve(n)
	if n == nil || n.Kind != yaml.MappingNode {
		line := 1
		if n != nil && n.Line > 0 {
			line = n.Line
		}
		f.fail(line, "%s must be a map with the keys %s", what, list(known))
		return nil
	}
	m := make(map[string]*yaml.Node, len(known))
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := resolve(n.Content[i]), n.Content[i+1]
		switch {
		case !isString(k) || !slices.Contains(known, k.Value):
			f.fail(k.Line, "unknown key '%s' in %s%s", k.Value, what, meantKey(k.Value, known))
		case m[k.Value] != nil:
			f.fail(k.Line, "key '%s' is written twice", k.Value)
		default:
			m[k.Value] = v
		}
	}
	return m
}

// meantKey says what may have been meant by an unknown key.
func meantKey(key string, known []string) string {
	if key == "cases" {
		return ": cases stand in test files (outcall rules test), in a directory of their own"
	}
	return suggest(key, known)
}

func list(words []string) string {
	out := ""
	for i, w := range words {
		switch {
		case i == 0:
		case i == len(words)-1:
			out += " and "
		default:
			out += ", "
		}
		out += w
	}
	return out
}

// isText are the tags of what YAML 1.2 has as strings: this library's dates
// and merge keys are the language's 1.1.
var isText = map[string]bool{"!!str": true, "!!timestamp": true, "!!merge": true}

func isString(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && isText[n.ShortTag()] }

// text reads a string with the lines it stands in.
func (f *ruleFile) text(n *yaml.Node, what string) (scalar, bool) {
	if n == nil || !isString(n) {
		f.fail(n.Line, "%s must be a string (in quotes, where it looks like something else)", what)
		return scalar{}, false
	}
	return scalar{n.Value, scalarMarks(f.lines, n)}, true
}

func (f *ruleFile) boolean(n *yaml.Node, what string) bool {
	n = resolve(n)
	if isNull(n) {
		return false
	}
	var b bool
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" || n.Decode(&b) != nil {
		f.fail(n.Line, "%s must be true or false", what)
	}
	return b
}

func (f *ruleFile) integer(n *yaml.Node, what string, low, high int64) int64 {
	// 010 is eight to some readers and ten to others: no form but the plain one.
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int" && plainNumber.MatchString(n.Value) {
		v, err := strconv.ParseInt(n.Value, 10, 64)
		if err == nil && v >= low && v <= high {
			return v
		}
	}
	f.fail(n.Line, "%s must be a number from %d to %d, in plain decimal", what, low, high)
	return low
}

var plainNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)

// disguised refuses characters by which a file shows other text than it holds:
// line breaks that YAML's readers, and people's editors, do not agree on (a
// rule could stand in what looks like a comment), and marks that turn the
// order of what is shown. Written as escapes they are text like any other. It
// reports whether the file's lines are the same for all, so that the places
// of what else is found are right.
func (f *ruleFile) disguised() (sameLines bool) {
	line, sameLines := 1, true
	data := f.src.Data
	for i := 0; i < len(data); {
		c, n := rune(data[i]), 1
		if c >= utf8.RuneSelf {
			c, n = utf8.DecodeRune(data[i:])
		}
		switch {
		case c == '\n':
			line++
		case c == '\r' && (i+1 == len(data) || data[i+1] != '\n'), c == '\u0085', c == '\u2028', c == '\u2029':
			f.fail(line, "U+%04X ends a line for some readers and not for others: end lines with LF or CR LF, and write it as an escape in a text", c)
			sameLines = false
		case c >= '\u202a' && c <= '\u202e', c >= '\u2066' && c <= '\u2069':
			f.fail(line, "U+%04X changes the order in which text is shown: write it as an escape", c)
		}
		i += n
	}
	return sameLines
}
