// Package rulefmt writes rule files in one way: keys in the order of the
// reference, two spaces, one blank line between rules, conditions quoted or
// folded alike. It changes no meaning and loses no comment: what it writes is
// read again and compared, and a file for which that fails stays as it is,
// with an error.
//
// Comments stay before, beside or after what they stood at, also where keys
// change places. It is about form alone: a file that does not load is
// formatted as any other, as long as it is YAML.
package rulefmt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"outcall/policy"
)

// width is the column that folded conditions keep to, where they can.
const width = 100

// rounds bounds how often a file is formatted until it stays as it is: a
// comment at an odd place may move once more when what it stood at has moved.
const rounds = 4

// Source formats a rule file. Formatting the result again changes nothing.
func Source(data []byte) ([]byte, error) {
	text, err := plain(data)
	if err != nil {
		return nil, err
	}
	for range rounds {
		out, err := once(text)
		if err != nil {
			return nil, err
		}
		if bytes.Equal(out, text) {
			return out, nil
		}
		text = out
	}
	return nil, errors.New("its comments stand where none can stay: put each on a line of its own")
}

func once(text []byte) ([]byte, error) {
	d, err := read(text)
	if err != nil {
		return nil, err
	}
	out := d.write()
	if err := d.sameAs(out); err != nil {
		return nil, err
	}
	return out, nil
}

// plain returns the text with one kind of line break.
func plain(data []byte) ([]byte, error) {
	if len(data) > policy.MaxFileSize {
		return nil, fmt.Errorf("the file is larger than %d bytes", policy.MaxFileSize)
	}
	if !utf8.Valid(data) {
		return nil, errors.New("the file is not UTF-8")
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	if bytes.ContainsAny(data, "\r\u0085\u2028\u2029") {
		return nil, errors.New("the file has line breaks that are not LF or CRLF")
	}
	return data, nil
}

// A document is a file as a tree of items with their comments.
type document struct {
	root     *item
	comments []comment
	anchors  bool     // where there are any, nothing changes places
	head     []string // comments before all items, apart from the first
	foot     []string // comments after all items
}

// An item is a key with its value, or an entry of a list.
type item struct {
	key      *yaml.Node // nil in a list
	value    *yaml.Node
	line     int
	col      int // of the key or the dash, from 1
	parent   *item
	children []*item

	before, beside, after []string // comments
}

func read(text []byte) (*document, error) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the file is empty")
		}
		return nil, fmt.Errorf("YAML parse error: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("one file holds one document")
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return nil, errors.New("a rule file is a map")
	}
	d := &document{root: &item{value: top, line: 0, col: 0}}
	if err := d.grow(d.root, 0); err != nil {
		return nil, err
	}
	d.comments = scan(text, d.scalars())
	d.attach()
	if !d.anchors {
		order(d.root)
	}
	d.root.walk(hoist)
	return d, nil
}

// maxDepth bounds the nesting of a file; a rule file has four levels.
const maxDepth = 64

// grow makes the items below one.
func (d *document) grow(it *item, depth int) error {
	n := it.value
	if depth > maxDepth {
		return fmt.Errorf("line %d: nested more than %d deep", n.Line, maxDepth)
	}
	d.anchors = d.anchors || n.Anchor != "" || n.Kind == yaml.AliasNode
	switch n.Kind {
	case yaml.MappingNode:
		seen := map[string]bool{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			if k.Kind != yaml.ScalarNode || seen[k.Value] {
				return fmt.Errorf("line %d: a key that is no word, or is written twice", k.Line)
			}
			seen[k.Value] = true
			d.anchors = d.anchors || k.Anchor != ""
			it.children = append(it.children, &item{key: k, value: n.Content[i+1], line: k.Line, col: k.Column, parent: it})
		}
	case yaml.SequenceNode:
		for _, v := range n.Content {
			col := v.Column
			if n.Style&yaml.FlowStyle == 0 {
				col = n.Column
			}
			it.children = append(it.children, &item{value: v, line: v.Line, col: col, parent: it})
		}
	}
	for _, c := range it.children {
		if err := d.grow(c, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// keyOrder is how the reference writes a file, a rule and its egress.
var keyOrder = []string{"version", "definitions", "rules",
	"id", "description", "condition", "action", "priority", "log", "egress",
	"mode", "ports", "allow_private_ips"}

// order brings known keys into the order of the reference; others keep theirs
// after them. The names of definitions keep their own.
func order(it *item) {
	place := func(c *item) int {
		if i := slices.Index(keyOrder, c.key.Value); i >= 0 {
			return i
		}
		return len(keyOrder)
	}
	if it.value.Kind == yaml.MappingNode && (it.key == nil || it.key.Value != "definitions") {
		slices.SortStableFunc(it.children, func(a, b *item) int { return place(a) - place(b) })
	}
	for _, c := range it.children {
		order(c)
	}
}

// hoist brings what stands between a dash and the first key before the dash.
func hoist(it *item) {
	if it.key != nil || len(it.children) == 0 || it.children[0].key == nil {
		return
	}
	first := it.children[0]
	it.before = append(it.before, first.before...)
	first.before = nil
}

// walk calls f for every item in the order of the file.
func (it *item) walk(f func(*item)) {
	for _, c := range it.children {
		f(c)
		c.walk(f)
	}
}

// attach gives every comment to the item that it stands at.
func (d *document) attach() {
	var items []*item
	d.root.walk(func(it *item) { items = append(items, it) })
	for i, c := range d.comments {
		var prev, next *item
		for _, it := range items {
			if it.line <= c.line {
				prev = it
			} else if next == nil {
				next = it
			}
		}
		switch {
		case !c.own && prev != nil:
			prev = prev.whole()
			prev.beside = append(prev.beside, c.text)
		case prev == nil && next != nil && d.apart(i, next):
			d.head = append(d.head, c.text)
		case next != nil && belongs(prev, c, next.col) == nil:
			next.before = append(next.before, c.text)
		default:
			if it := belongs(prev, c, 1); it != nil {
				it.after = append(it.after, c.text)
			} else {
				d.foot = append(d.foot, c.text)
			}
		}
	}
}

// whole is the list that an item is the last of, where it is written in
// brackets: what stands behind them is about the list.
func (it *item) whole() *item {
	for p := it.parent; p != nil && p.value.Kind == yaml.SequenceNode && p.value.Style&yaml.FlowStyle != 0 &&
		p.children[len(p.children)-1] == it; p = it.parent {
		it = p
	}
	return it
}

// apart reports whether a comment at the head of the file does not reach down
// to the first item.
func (d *document) apart(i int, first *item) bool {
	line := d.comments[i].line
	for _, c := range d.comments[i:] {
		if c.line > line+1 || c.line > first.line {
			break
		}
		line = c.line
	}
	return line+1 < first.line
}

// belongs finds the item that a comment stands behind, as deep as its
// indentation says and deeper than a column.
func belongs(prev *item, c comment, than int) *item {
	for it := prev; it != nil && it.parent != nil; it = it.parent {
		if it.col <= c.col && it.col > than {
			return it
		}
	}
	return nil
}
