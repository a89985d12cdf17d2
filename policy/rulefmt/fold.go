package rulefmt

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// fold breaks a condition before && and || outside its string literals, so
// that folding the lines gives the very text again. It returns one line where
// there is no such place.
func fold(s string, room int) []string {
	var lines []string
	start, last := 0, -1 // of the line, of its last place to break
	for _, at := range breaks(s) {
		if at-start > room && last > start {
			lines = append(lines, s[start:last])
			start = last + 1
		}
		last = at
	}
	if len(s)-start > room && last > start {
		lines = append(lines, s[start:last])
		start = last + 1
	}
	return append(lines, s[start:])
}

// breaks are the offsets of single spaces before && and ||.
func breaks(s string) []int {
	var out []int
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"' || s[i] == '\'':
			i = skip(s, i)
		case s[i] == ' ' && i > 0 && s[i-1] != ' ' && (strings.HasPrefix(s[i+1:], "&& ") || strings.HasPrefix(s[i+1:], "|| ")):
			out = append(out, i)
		}
	}
	return out
}

// skip returns the offset of the quote that ends a string literal. It may err
// on raw literals, which only costs a nicer place to break: folding changes
// no text.
func skip(s string, i int) int {
	quote := s[i]
	for i++; i < len(s) && s[i] != quote; i++ {
		if s[i] == '\\' {
			i++
		}
	}
	return i
}

// sameAs reads what was written and compares it with the document: the same
// values, the same comments.
func (d *document) sameAs(out []byte) error {
	again, err := read(out)
	if err != nil {
		return fmt.Errorf("the formatted file could not be read: %w", err)
	}
	if !reflect.DeepEqual(meaning(d.root), meaning(again.root)) {
		return fmt.Errorf("the formatted file would mean something else")
	}
	if !slices.Equal(texts(d.comments), texts(again.comments)) {
		return fmt.Errorf("a comment would be lost")
	}
	return nil
}

// texts are the words of comments, sorted: several beside one item become one.
func texts(cs []comment) []string {
	var out []string
	for _, c := range cs {
		out = append(out, strings.Fields(c.text)...)
	}
	slices.Sort(out)
	return out
}

// meaning is what an item says, whatever its form.
func meaning(it *item) any {
	n := it.value
	switch n.Kind {
	case yaml.AliasNode:
		return "*" + n.Value
	case yaml.ScalarNode:
		v := n.Value
		if it.isCode() {
			v = strings.TrimSpace(v)
		}
		return [3]string{n.ShortTag(), n.Anchor, v}
	case yaml.SequenceNode:
		out := []any{n.Anchor}
		for _, c := range it.children {
			out = append(out, meaning(c))
		}
		return out
	}
	out := map[string]any{"": n.Anchor}
	for _, c := range it.children {
		out[c.key.ShortTag()+c.key.Value] = meaning(c)
	}
	return out
}
