package policy

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/net/idna"
)

// MaxRequestRules bounds a proposed rule file: a person is to read it.
const MaxRequestRules = 64

// maxRequestExpanded bounds its conditions with their definitions in them: a
// few lines can define a condition that takes minutes to compile.
const maxRequestExpanded = 512 << 10

// CheckRequest checks a rule file that an agent proposes, by itself and, where
// active is given, against the ids of the rules that are in force. What an
// operator alone may write is refused: it would widen more than its reader may
// notice. It returns the file's rules.
func CheckRequest(text []byte, active *Snapshot) (*Snapshot, error) {
	s, err := load([]Source{{Path: "rule_file", Data: text, Origin: Request}}, maxRequestExpanded)
	if err != nil {
		return nil, err
	}
	switch n := len(s.rules); {
	case n == 0:
		return nil, errors.New("rule_file: there are no rules in it")
	case n > MaxRequestRules:
		return nil, fmt.Errorf("rule_file: %d rules, and the operator reads at most %d at once: ask for less", n, MaxRequestRules)
	}
	known := map[string]bool{}
	if active != nil {
		for _, r := range active.rules {
			known[r.ID] = true
		}
	}
	for _, r := range s.rules {
		why := r.notForAgents()
		if known[r.ID] {
			why = "a rule of this id is already active"
		}
		if why != "" {
			return nil, fmt.Errorf("rule_file:%d: rule %s: %s", r.Line, r.ID, why)
		}
	}
	return s, nil
}

// notForAgents says what in a rule is not for an agent to ask for.
func (r *Rule) notForAgents() string {
	const operators = " is not for a request: leave it out, or the operator can write it into a rule file"
	process := FieldSet(0).With(ProcessExe).With(ProcessName).With(ProcessArgs)
	switch {
	case r.Priority < 0:
		return "a negative priority" + operators
	case r.AllowPrivate:
		return "allow_private_ips" + operators
	case r.Mode == ModeDirectIP:
		return "egress.mode: direct_ip" + operators
	case r.c.fields&process != 0:
		return "process.*" + operators
	}
	for _, u := range r.c.texts {
		if u.field.Named() && strings.ContainsFunc(u.value, func(c rune) bool { return c > 0x7f }) {
			return notPunycode(u.value)
		}
	}
	return ""
}

// Named reports a field that holds a host name.
func (f Field) Named() bool {
	return f == DNSQuery || f == NetworkHostname || f == HTTPHost || f == TLSSNI
}

func notPunycode(name string) string {
	why := fmt.Sprintf("the name %+q is not in punycode, and so never asked for", name)
	if ascii, err := idna.Lookup.ToASCII(strings.Trim(name, ".")); err == nil {
		why += ": write " + ascii
	}
	return why
}
