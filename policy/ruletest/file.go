// Package ruletest runs the cases that stand beside a policy: what should
// happen to an event, and which rule should decide it.
//
// A test file is YAML. It names the rule files that it is about, relative to
// itself, and holds cases:
//
//	version: "1"
//	rules: [../agent.yaml]         # files and directories
//	agent: claude                  # agent.name, where a case names none
//	cases:
//	  - name: clone over https     # optional
//	    event: https://github.com/
//	    verdict: allow
//	    rule: allow-github         # optional; "default policy" where none matches
//	  - event: {layer: request, http.host: api.test, http.method: DELETE}
//	    verdict: deny
//
// An event is a target, as explain takes it, or a layer with the fields that
// it knows. Test files stand in a directory of their own: a directory of rule
// files holds nothing else.
package ruletest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"outcall/policy"
	"outcall/policy/probe"
)

// Limits of one test file. A file beyond them is not run.
const (
	MaxFileSize = 1 << 20
	MaxCases    = 10000
)

// A File is one parsed test file.
type File struct {
	Path  string
	Rules []string // as written
	Cases []Case
}

// A Case is one event and what should become of it.
type Case struct {
	Line    int
	Name    string
	Event   probe.Event
	Verdict string
	Rule    string // "" means any
}

// Parse reads a test file. The error is a policy.ErrorList with every finding.
func Parse(path string, data []byte) (*File, error) {
	p := &parser{file: &File{Path: path}}
	p.read(data)
	if len(p.errs) > 0 {
		return nil, p.errs
	}
	return p.file, nil
}

type parser struct {
	file  *File
	agent string
	errs  policy.ErrorList
}

func (p *parser) fail(line int, format string, args ...any) {
	p.errs = append(p.errs, &policy.LoadError{Path: p.file.Path, Line: line, Msg: fmt.Sprintf(format, args...)})
}

func (p *parser) read(data []byte) {
	if len(data) > MaxFileSize {
		p.fail(0, "the file is larger than %d bytes", MaxFileSize)
		return
	}
	var doc, more yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); err != nil {
		p.fail(1, "YAML parse error: %s", strings.TrimPrefix(err.Error(), "yaml: "))
		return
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		p.fail(max(more.Line, 1), "one file holds one document")
		return
	}
	top := p.keys(doc.Content[0], "the file", "version", "rules", "agent", "cases")
	if top == nil {
		return
	}
	if v := top["version"]; v == nil || v.Value != "1" || v.ShortTag() != "!!str" {
		p.fail(doc.Content[0].Line, `write version: "1"`)
	}
	p.agent = p.text(top["agent"], "agent")
	p.rules(top["rules"])
	switch n := top["cases"]; {
	case n == nil || n.Kind != yaml.SequenceNode || len(n.Content) == 0:
		p.fail(doc.Content[0].Line, "cases must be a list of at least one case")
	case len(n.Content) > MaxCases:
		p.fail(n.Line, "more than %d cases", MaxCases)
	default:
		for _, c := range n.Content {
			p.one(c)
		}
	}
}

func (p *parser) rules(n *yaml.Node) {
	if n == nil {
		return
	}
	items := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		items = n.Content
	}
	for _, i := range items {
		if path := p.text(i, "rules"); path != "" {
			p.file.Rules = append(p.file.Rules, path)
		}
	}
}

// one reads a case.
func (p *parser) one(n *yaml.Node) {
	before := len(p.errs)
	m := p.keys(n, "a case", "name", "event", "agent", "session", "exe", "ip", "via", "verdict", "rule")
	if m == nil {
		return
	}
	c := Case{Line: n.Line, Name: p.text(m["name"], "name"), Verdict: p.text(m["verdict"], "verdict"), Rule: p.text(m["rule"], "rule")}
	c.Event.Who = policy.Who{Agent: p.agent, Session: p.text(m["session"], "session")}
	if m["agent"] != nil {
		c.Event.Who.Agent = p.text(m["agent"], "agent")
	}
	p.event(&c, n, m)
	words := []string{"allow", "deny", "depends"}
	if c.Event.Layer != 0 {
		words = []string{"allow", "provisional", "open", "deny"}
	}
	if !slices.Contains(words, c.Verdict) {
		p.fail(n.Line, "verdict is %q: want %s", c.Verdict, strings.Join(words, ", "))
	}
	if c.Event.Layer != 0 && len(p.errs) == before {
		if err := c.Event.Check(); err != nil {
			p.fail(m["event"].Line, "%v", err)
		}
	}
	if len(p.errs) == before {
		p.file.Cases = append(p.file.Cases, c)
	}
}

func (p *parser) event(c *Case, n *yaml.Node, m map[string]*yaml.Node) {
	e := m["event"]
	switch {
	case e == nil:
		p.fail(n.Line, "the case has no event")
	case e.Kind == yaml.MappingNode:
		p.step(c, e)
		for _, k := range []string{"exe", "ip", "via"} {
			if m[k] != nil {
				p.fail(m[k].Line, "%s belongs to a target; a layer has process.exe and network.ip", k)
			}
		}
	default:
		c.Event.Target = p.text(e, "event")
		c.Event.Exe, c.Event.Via = p.text(m["exe"], "exe"), p.text(m["via"], "via")
		if !slices.Contains([]string{"", probe.Direct, probe.Proxy}, c.Event.Via) {
			p.fail(m["via"].Line, "via is %q: want direct or proxy", c.Event.Via)
		}
		if ip := p.text(m["ip"], "ip"); ip != "" {
			a, err := netip.ParseAddr(ip)
			if err != nil {
				p.fail(m["ip"].Line, "ip %q is no address", ip)
			}
			c.Event.IP = a
		}
	}
}

// step reads an event that is a layer with its fields.
func (p *parser) step(c *Case, n *yaml.Node) {
	c.Event.Fields = map[string]any{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if _, twice := c.Event.Fields[k.Value]; twice {
			p.fail(k.Line, "%s is written twice", k.Value)
		} else if k.Value == "layer" {
			c.Event.Layer = layer(v.Value)
		} else if k.Value == "agent.name" {
			c.Event.Who.Agent = p.text(v, "agent.name")
		} else {
			c.Event.Fields[k.Value] = value(v)
		}
	}
	if c.Event.Layer == 0 {
		p.fail(n.Line, "layer is missing: want dns, flow, hello, connect, request, raw or run")
	}
}

func layer(word string) policy.Layer {
	for l := policy.LayerDNS; l <= policy.LayerRun; l++ {
		if l.String() == word {
			return l
		}
	}
	return 0
}

// value reads a field as the types that facts have; what is none of those is
// told by the event.
func value(n *yaml.Node) any {
	var v any
	if n.Decode(&v) != nil {
		return nil
	}
	switch v.(type) {
	case []any:
		var list []string
		if n.Decode(&list) == nil {
			return list
		}
	case map[string]any:
		var m map[string]string
		if n.Decode(&m) == nil {
			return m
		}
	}
	return v
}

// keys returns the values of a map with known keys, or nil.
func (p *parser) keys(n *yaml.Node, what string, known ...string) map[string]*yaml.Node {
	if n.Kind != yaml.MappingNode {
		p.fail(max(n.Line, 1), "%s must be a map with the keys %s", what, strings.Join(known, ", "))
		return nil
	}
	m := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if v.Kind == yaml.AliasNode {
			v = v.Alias
		}
		switch {
		case !slices.Contains(known, k.Value):
			p.fail(k.Line, "unknown key '%s' in %s: it has %s", k.Value, what, strings.Join(known, ", "))
		case m[k.Value] != nil:
			p.fail(k.Line, "key '%s' is written twice", k.Value)
		default:
			m[k.Value] = v
		}
	}
	return m
}

func (p *parser) text(n *yaml.Node, what string) string {
	if n == nil {
		return ""
	}
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		p.fail(n.Line, "%s must be a string", what)
		return ""
	}
	return n.Value
}
