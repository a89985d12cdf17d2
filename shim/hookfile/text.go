package hookfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// A node is a value's place in a JSON text.
type node struct {
	start, end int
	keys       []string // of an object, one for each kid
	at         []int    // where a kid begins, its key included
	kids       []node
	kind       byte // { [ or another
}

// scan finds the values of a text that is one JSON value.
func scan(text []byte) (node, error) {
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		if e, ok := errors.AsType[*json.SyntaxError](err); ok {
			return node{}, fmt.Errorf("line %d: %w", 1+bytes.Count(text[:min(int(e.Offset), len(text))], []byte("\n")), err)
		}
		return node{}, err
	}
	s := scanner{text: text}
	n := s.value()
	return n, s.err
}

// A scanner walks a text that is known to be valid.
type scanner struct {
	text []byte
	pos  int
	err  error
}

func (s *scanner) space() {
	for s.pos < len(s.text) && strings.IndexByte(" \t\r\n", s.text[s.pos]) >= 0 {
		s.pos++
	}
}

func (s *scanner) value() node {
	s.space()
	n := node{start: s.pos, kind: s.text[s.pos]}
	switch n.kind {
	case '{', '[':
		s.pos++
		s.members(&n)
	case '"':
		s.str()
	default:
		for s.pos < len(s.text) && strings.IndexByte(" \t\r\n,]}", s.text[s.pos]) < 0 {
			s.pos++
		}
	}
	n.end = s.pos
	return n
}

func (s *scanner) members(n *node) {
	for {
		s.space()
		switch s.text[s.pos] {
		case '}', ']':
			s.pos++
			return
		case ',':
			s.pos++
			s.space()
		}
		n.at = append(n.at, s.pos)
		if n.kind == '{' {
			key := s.str()
			for _, k := range n.keys {
				if k == key {
					s.err = fmt.Errorf("the key %q stands twice", key)
				}
			}
			n.keys = append(n.keys, key)
			s.space()
			s.pos++ // the colon
		}
		n.kids = append(n.kids, s.value())
	}
}

func (s *scanner) str() string {
	from := s.pos
	for s.pos++; s.text[s.pos] != '"'; s.pos++ {
		if s.text[s.pos] == '\\' {
			s.pos++
		}
	}
	s.pos++
	var out string
	_ = json.Unmarshal(s.text[from:s.pos], &out) // valid, see scan
	return out
}

// find returns an object's member; i is -1 where there is none.
func (n node) find(key string) (kid node, i int) {
	for i, k := range n.keys {
		if k == key {
			return n.kids[i], i
		}
	}
	return node{}, -1
}

// indent is the white space that begins the line of a place.
func indent(text []byte, pos int) string {
	line := text[bytes.LastIndexByte(text[:pos], '\n')+1 : pos]
	return string(line[:len(line)-len(bytes.TrimLeft(line, " \t"))])
}

// unit is one step of a text's indentation.
func unit(text []byte, root node) string {
	if len(root.at) > 0 && bytes.IndexByte(text[root.start:root.at[0]], '\n') >= 0 {
		if s := indent(text, root.at[0]); s != "" {
			return s
		}
	}
	return "  "
}

// insert adds a value to the end of an object (with a key) or an array.
func insert(text []byte, root, n node, key string, value any) []byte {
	step := unit(text, root)
	outer := indent(text, n.start)
	inner := outer + step
	if len(n.at) > 0 && bytes.IndexByte(text[n.start:n.at[0]], '\n') >= 0 {
		inner = indent(text, n.at[0])
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // the shell's &, < and > stay readable
	e.SetIndent(inner, step)
	_ = e.Encode(value) // strings and maps of them
	item := strings.TrimRight(b.String(), "\n")
	if key != "" {
		k, _ := json.Marshal(key)
		item = string(k) + ": " + item
	}
	if len(n.kids) == 0 {
		return splice(text, n.start+1, n.end-1, "\n"+inner+item+"\n"+outer)
	}
	last := n.kids[len(n.kids)-1].end
	return splice(text, last, last, ",\n"+inner+item)
}

// remove takes out the kid i and its comma.
func remove(text []byte, n node, i int) []byte {
	switch {
	case len(n.kids) == 1:
		return splice(text, n.start+1, n.end-1, "")
	case i+1 < len(n.kids):
		return splice(text, n.at[i], n.at[i+1], "")
	}
	return splice(text, n.kids[i-1].end, n.kids[i].end, "")
}

func splice(text []byte, from, to int, with string) []byte {
	return append(append(append([]byte{}, text[:from]...), with...), text[to:]...)
}
