package policy

import (
	"bytes"
	"sort"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// A mark says that from a byte offset of a text on, it stands in a line of
// the file.
type mark struct{ off, line int }

// marks are the marks of one text, by offset. A text may come from several
// places of a file, such as a condition with definitions in it.
type marks []mark

// line returns the line of the file at a byte offset of the text.
func (m marks) line(off int) int {
	i := sort.Search(len(m), func(i int) bool { return m[i].off > off })
	if i == 0 {
		if len(m) == 0 {
			return 0
		}
		return m[0].line
	}
	return m[i-1].line
}

func (m marks) add(off, line int) marks {
	if n := len(m); n > 0 && (m[n-1].line == line || m[n-1].off == off) {
		if m[n-1].off == off {
			m[n-1].line = line
		}
		return m
	}
	return append(m, mark{off, line})
}

// scalarMarks finds the file's line of each part of a scalar's value. YAML
// folds and unescapes, so it follows value and file side by side: what is not
// white space stands in both in the same order.
func scalarMarks(file lines, n *yaml.Node) marks {
	m := marks{}.add(0, n.Line)
	if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) == 0 && !strings.ContainsRune(n.Value, ' ') {
		return m // one word cannot stand in two lines
	}
	raw, line := file.from(n.Line, n.Column), n.Line
	if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		i := bytes.IndexByte(raw, '\n') // the rest of the header line is no text
		if i < 0 {
			return m
		}
		raw, line = raw[i+1:], line+1
	}
	first := true
	for off, r := range n.Value {
		if r == ' ' || r == '\t' || r == '\n' || r == '\r' {
			continue
		}
		rest, lines, ok := seek(raw, r, n.Style&yaml.DoubleQuotedStyle != 0)
		if !ok {
			return m
		}
		raw, line = rest, line+lines
		if first {
			off, first = 0, false
		}
		m = m.add(off, line)
	}
	return m
}

// lines is a file and where each of its lines begins: a file of ten thousand
// rules is not read from its start for each of them.
type lines struct {
	data   []byte
	starts []int
}

func linesOf(data []byte) lines {
	l := lines{data, []int{0}}
	for off := 0; ; {
		i := bytes.IndexByte(data[off:], '\n')
		if i < 0 {
			return l
		}
		off += i + 1
		l.starts = append(l.starts, off)
	}
}

// from returns the file from a line and column (of code points, both from 1).
func (l lines) from(line, col int) []byte {
	if line < 1 || line > len(l.starts) {
		return nil
	}
	rest := l.data[l.starts[line-1]:]
	for ; col > 1 && len(rest) > 0; col-- {
		_, n := utf8.DecodeRune(rest)
		rest = rest[n:]
	}
	return rest
}

// seek returns what follows the next r in raw, and how many lines it passed.
// In a double-quoted scalar a \u escape may stand for r: then nothing is
// found within reach, and the place stays where it is.
func seek(raw []byte, r rune, quoted bool) (rest []byte, lines int, ok bool) {
	for i := 0; i < len(raw); {
		c, n := utf8.DecodeRune(raw[i:])
		if c == r {
			return raw[i+n:], lines, true
		}
		if quoted && c == '\\' && i+1 < len(raw) && strings.IndexByte("xuU", raw[i+1]) >= 0 {
			return skipEscape(raw[i:]), lines, true
		}
		if c == '\n' {
			lines++
		}
		i += n
	}
	return nil, 0, false
}

func skipEscape(raw []byte) []byte {
	n := map[byte]int{'x': 4, 'u': 6, 'U': 10}[raw[1]]
	return raw[min(n, len(raw)):]
}
