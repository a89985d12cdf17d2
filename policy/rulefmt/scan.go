package rulefmt

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// A comment is one comment of a file.
type comment struct {
	line, col int // from 1
	text      string
	own       bool // alone on its line
}

// A place is a scalar in the file that may hold a # that is no comment.
type place struct {
	node   *yaml.Node
	indent int // of what it belongs to: a block's text is indented more
}

// scalars are the quoted and block scalars of a file, in its order. In others
// a # after a space is always a comment.
func (d *document) scalars() []place {
	var out []place
	add := func(n *yaml.Node, indent int) {
		if n.Kind == yaml.ScalarNode && n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
			out = append(out, place{n, indent})
		}
	}
	d.root.walk(func(it *item) {
		if it.key != nil {
			add(it.key, it.col-1)
		}
		add(it.value, it.col-1)
	})
	slices.SortStableFunc(out, func(a, b place) int {
		return cmp.Or(a.node.Line-b.node.Line, a.node.Column-b.node.Column)
	})
	return out
}

// scan finds the comments of a text, jumping over the scalars.
func scan(text []byte, scalars []place) []comment {
	s := &scanner{text: text, line: 1, col: 1, blank: true}
	for s.pos < len(s.text) {
		if len(scalars) > 0 && s.at(scalars[0].node) {
			s.jump(scalars[0])
			scalars = scalars[1:]
			continue
		}
		r, n := utf8.DecodeRune(s.text[s.pos:])
		if r == '#' && (s.blank || s.spaced) {
			s.comment()
			continue
		}
		s.step(r, n)
	}
	return s.out
}

type scanner struct {
	text      []byte
	pos       int
	line, col int
	blank     bool // nothing but spaces in this line yet
	spaced    bool // a space is before this
	out       []comment
}

func (s *scanner) at(n *yaml.Node) bool {
	return s.line > n.Line || s.line == n.Line && s.col >= n.Column
}

func (s *scanner) step(r rune, n int) {
	s.pos += n
	s.col++
	s.spaced = r == ' ' || r == '\t'
	s.blank = s.blank && s.spaced
	if r == '\n' {
		s.line, s.col, s.blank, s.spaced = s.line+1, 1, true, true
	}
}

func (s *scanner) comment() {
	end := bytes.IndexByte(s.text[s.pos:], '\n')
	if end < 0 {
		end = len(s.text) - s.pos
	}
	s.out = append(s.out, comment{s.line, s.col, strings.TrimRight(string(s.text[s.pos:s.pos+end]), " \t"), s.blank})
	s.pos += end
}

// jump goes to the end of a scalar.
func (s *scanner) jump(p place) {
	switch {
	case p.node.Style&yaml.DoubleQuotedStyle != 0:
		s.quoted('"')
	case p.node.Style&yaml.SingleQuotedStyle != 0:
		s.quoted('\'')
	default:
		s.block(p.indent)
	}
}

func (s *scanner) quoted(quote rune) {
	open := false // a tag or an anchor may stand before it
	for s.pos < len(s.text) {
		r, n := utf8.DecodeRune(s.text[s.pos:])
		s.step(r, n)
		switch {
		case r == quote && open:
			if quote == '\'' && s.pos < len(s.text) && s.text[s.pos] == '\'' {
				s.step('\'', 1)
				continue
			}
			return
		case r == quote:
			open = true
		case r == '\\' && open && quote == '"' && s.pos < len(s.text):
			r, n := utf8.DecodeRune(s.text[s.pos:])
			s.step(r, n)
		}
	}
}

// block goes over a block scalar: its header, which may have a comment, and
// the lines that are indented as its first.
func (s *scanner) block(indent int) {
	want := 0
	for s.pos < len(s.text) {
		r, n := utf8.DecodeRune(s.text[s.pos:])
		if r == '\n' {
			s.step(r, n)
			break
		}
		if r == '#' && s.spaced {
			s.comment()
			continue
		}
		if r >= '1' && r <= '9' {
			want = indent + int(r-'0')
		}
		s.step(r, n)
	}
	for s.pos < len(s.text) {
		end := bytes.IndexByte(s.text[s.pos:], '\n') + 1
		if end == 0 {
			end = len(s.text) - s.pos
		}
		line := s.text[s.pos : s.pos+end]
		spaces := len(line) - len(bytes.TrimLeft(line, " "))
		if len(bytes.TrimSpace(line)) > 0 {
			if want == 0 {
				want = max(spaces, indent+1)
			}
			if spaces < want {
				return
			}
		}
		s.pos += end
		s.line++
		s.col, s.blank, s.spaced = 1, true, true
	}
}
