package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A definition is one named text of a file.
type definition struct {
	name string
	line int // of its name
	scalar
	used bool
}

func isNameRune(r rune) bool {
	return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r)
}

func isDefinitionName(s string) bool {
	for _, r := range s {
		if !isNameRune(r) {
			return false
		}
	}
	return s != ""
}

// An expander puts definitions into a text. It keeps for every byte of the
// result the line of the file that it came from.
type expander struct {
	defs  map[string]*definition
	out   strings.Builder
	marks marks
	chain []string
	limit int // bytes that the result may have
}

// expand returns the text with every $name replaced by the definition in
// parentheses. A finding's offset is into the given text.
func (f *ruleFile) expand(s scalar) (scalar, *finding) {
	if !strings.ContainsRune(s.text, '$') {
		return s, nil
	}
	e := &expander{defs: f.defs, limit: 4 * maxConditionSize}
	if bad := e.put(s); bad != nil {
		return scalar{}, bad
	}
	return scalar{e.out.String(), e.marks}, nil
}

// put appends a text with its references expanded.
func (e *expander) put(s scalar) *finding {
	pos := 0
	for _, ref := range references(s.text) {
		e.copy(s, pos, ref.start)
		e.marks = e.marks.add(e.out.Len(), s.marks.line(ref.start))
		if msg := e.reference(s.text[ref.start+1 : ref.end]); msg != "" {
			return &finding{ref.start, msg}
		}
		pos = ref.end
	}
	e.copy(s, pos, len(s.text))
	return nil
}

func (e *expander) copy(s scalar, start, end int) {
	if start == end {
		return
	}
	base := e.out.Len()
	e.marks = e.marks.add(base, s.marks.line(start))
	for _, m := range s.marks {
		if m.off > start && m.off < end {
			e.marks = e.marks.add(base+m.off-start, m.line)
		}
	}
	e.out.WriteString(s.text[start:end])
}

// reference appends one definition.
func (e *expander) reference(name string) string {
	d := e.defs[name]
	if d == nil {
		return fmt.Sprintf("undefined definition '$%s'%s", name, suggest(name, slices.Sorted(maps.Keys(e.defs))))
	}
	d.used = true
	for i, n := range e.chain {
		if n == name {
			return "circular definition: $" + strings.Join(append(e.chain[i:len(e.chain):len(e.chain)], name), " → $")
		}
	}
	if len(e.chain) >= maxDepth {
		return fmt.Sprintf("definitions are nested more than %d deep", maxDepth)
	}
	if e.out.Len()+len(d.text) > e.limit {
		return fmt.Sprintf("the condition with its definitions is larger than %d bytes", e.limit)
	}
	e.chain = append(e.chain, name)
	e.out.WriteByte('(')
	if bad := e.put(d.scalar); bad != nil {
		return bad.msg
	}
	if strings.Contains(d.text, "//") {
		e.out.WriteByte('\n') // a comment must not swallow the parenthesis
	}
	e.out.WriteByte(')')
	e.chain = e.chain[:len(e.chain)-1]
	return ""
}

// A span is a part of a text, by byte offsets.
type span struct{ start, end int }

// references finds every $name outside string literals and comments of CEL.
func references(text string) []span {
	var out []span
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == '"' || c == '\'':
			i = skipString(text, i)
		case strings.HasPrefix(text[i:], "//"):
			n := strings.IndexByte(text[i:], '\n')
			if n < 0 {
				return out
			}
			i += n
		case c == '$':
			end := i + 1
			for end < len(text) {
				r, n := utf8.DecodeRuneInString(text[end:])
				if !isNameRune(r) {
					break
				}
				end += n
			}
			if end > i+1 {
				out = append(out, span{i, end})
			}
			i = end
		default:
			i++
		}
	}
	return out
}

// skipString returns the offset after the string literal that begins at i:
// one or three quotes, raw or not.
func skipString(text string, i int) int {
	quote := text[i : i+1]
	if strings.HasPrefix(text[i:], strings.Repeat(quote, 3)) {
		quote = text[i : i+3]
	}
	raw := isRawPrefix(text, i)
	for i += len(quote); i < len(text); i++ {
		switch {
		case strings.HasPrefix(text[i:], quote):
			return i + len(quote)
		case text[i] == '\\' && !raw:
			i++
		case text[i] == '\n' && len(quote) == 1:
			return i // an unfinished literal: the parser reports it
		}
	}
	return len(text)
}

// isRawPrefix reports whether the letters before a quote make it a raw
// literal: r, R, with b or B on either side.
func isRawPrefix(text string, quote int) bool {
	start := quote
	for start > 0 {
		r, n := utf8.DecodeLastRuneInString(text[:start])
		if !isNameRune(r) {
			break
		}
		start -= n
	}
	switch strings.ToLower(text[start:quote]) {
	case "r", "br", "rb":
		return true
	}
	return false
}
