package shellcmd

import (
	"errors"
	"fmt"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// declare reads export, declare, local and their like.
func (s *splitter) declare(c *syntax.DeclClause, at []string) error {
	args := []arg{{text: c.Variant.Value, exact: true}}
	arrays := false
	for _, a := range c.Args {
		if a.Name != nil {
			args = append(args, arg{text: s.source(a), exact: a.Value == nil && a.Array == nil && a.Index == nil})
			continue
		}
		if a.Value == nil {
			continue
		}
		text, exact := s.word(a.Value)
		args = append(args, arg{text: text, exact: exact})
		name, value, sets := strings.Cut(text, "=")
		switch option := strings.HasPrefix(text, "-") || strings.HasPrefix(text, "+"); {
		case !exact:
			return fmt.Errorf("%s %s: what it declares is not literal", c.Variant.Value, text)
		case hidden(text):
			return errors.New("a quoted substitution in a declaration may be run")
		case option && c.Variant.Value != "export" && strings.ContainsAny(text, "in"):
			return fmt.Errorf("%s %s: what such a variable is given may be run", c.Variant.Value, text)
		case option:
			arrays = arrays || strings.ContainsAny(text, "aA")
		case sets:
			s.texts[name] = true
			s.sets(name, value, at)
			s.made = true
		}
	}
	s.arrays = s.arrays || arrays
	for _, a := range c.Args {
		if a.Name == nil || a.Value == nil {
			continue
		}
		if text, exact := s.word(a.Value); !exact || strings.HasPrefix(text, "(") {
			s.made = true
		}
	}
	if _, err := s.assigns(c.Args, at); err != nil {
		return err
	}
	s.add(args, nil, at)
	return nil
}

// builtin reads commands that take the names of variables: in an index of one
// is an expression, which is evaluated.
func (s *splitter) builtin(name string, r run) error {
	args := r.args[1:]
	for _, a := range args {
		if hidden(a.text) && a.exact && strings.Contains(a.text, "[") {
			return fmt.Errorf("%s: a quoted substitution in an index may be run", name)
		}
	}
	loose := func(list []arg, which func(arg) bool) error {
		for _, a := range list {
			if which(a) {
				return fmt.Errorf("%s %s: it may be the name of a variable with a substitution in it, which would be run", name, a.text)
			}
		}
		return nil
	}
	switch name {
	case "let":
		return loose(args, func(arg) bool { return true })
	case "test", "[":
		if len(args) > 1 && args[0].leads && args[1].leads {
			return loose(args[:1], func(arg) bool { return true })
		}
		for i, a := range args {
			if a.text == "-v" && i+1 < len(args) && !args[i+1].exact {
				return loose(args[i+1:], func(arg) bool { return true })
			}
		}
		return loose(args, s.loose)
	case "printf":
		if len(args) == 0 {
			return nil
		}
		if a := args[0]; a.splits || a.leads && len(args) > 2 {
			return loose(args[:1], func(arg) bool { return true })
		}
		if !strings.HasPrefix(args[0].text, "-v") {
			return nil
		}
		if args[0].text != "-v" || len(args) < 2 {
			return loose(args[:1], func(arg) bool { return true })
		}
		args = args[1:2]
	case "mapfile", "readarray":
		if err := loose(args, func(a arg) bool { return strings.HasPrefix(a.text, "-") && strings.Contains(a.text, "C") }); err != nil {
			return err
		}
	case "wait":
		return loose(args, s.loose)
	}
	// What is left sets the variables that it is told.
	for _, a := range args {
		if !a.exact {
			return loose([]arg{a}, func(arg) bool { return true })
		}
		v, value, _ := strings.Cut(a.text, "=")
		if syntax.ValidName(v) && name != "unset" {
			s.texts[v] = true
			s.sets(v, value, r.at)
		}
	}
	return nil
}

// loose tells whether an argument may be several words. It is one where it is
// made of numbers.
func (s *splitter) loose(a arg) bool {
	for _, n := range a.names {
		s.counted[n] = true
	}
	return a.globs || a.splits && len(a.names) == 0
}
