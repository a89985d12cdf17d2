package policy

import (
	"fmt"
	"strings"
	"unicode"
)

// SmallestRun returns the smallest rule file that would allow an action of
// the agent API which the set denies, proved by asking again with it added.
// rule is "" where no added rule would; advice says why, or what the rule is.
func (s *Snapshot) SmallestRun(who Who, r Run) (rule, advice string) {
	if s == nil {
		s = &Snapshot{}
	}
	f := NewFacts(LayerRun, who)
	f.SetRun(r)
	cond, id := "run.tool == "+celText(r.Tool), "allow-"+idText(r.Tool)
	if r.Tool == "file" && len(r.Args) == 1 {
		cond, id = cond+" && run.args == ["+celText(r.Args[0])+"]", "allow-file-"+idText(r.Args[0])
	}
	text := "version: \"1\"\nrules:\n  - id: " + id + "\n    action: allow\n    condition: '" + strings.ReplaceAll(cond, "'", "''") + "'\n"
	with, err := s.with(Source{Path: "proposed", Data: []byte(text), Origin: CLI})
	if err == nil && with.Step(f).Word == Allow {
		return text, "a rule file"
	}
	if o := s.Step(f); o.Rule != nil && o.Rule.Block {
		return "", fmt.Sprintf("no added rule would allow it: the block %s stands before it", o.Rule.ID)
	}
	return "", "no added rule would allow it"
}

// idText is what an id can hold of a text, so that the rules of two tools can
// stand beside each other.
func idText(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x80 && (r == '.' || r == '_' || r == '-' || unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return r
		}
		return '-'
	}, s)
	return s[:min(len(s), 100)]
}

// celText is a CEL string literal, in characters that a YAML scalar on one
// line may have.
func celText(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r > '~':
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
