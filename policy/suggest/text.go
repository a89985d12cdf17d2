package suggest

import (
	"fmt"
	"strconv"
	"strings"

	"outcall/policy"
	"outcall/policy/escape"
	"outcall/policy/replay"
)

// maxListed is how many entries of each kind the text names.
const maxListed = 50

// source is the rules as a rule file, without a word about the log.
func source(rules []Rule) policy.Source {
	var b strings.Builder
	writeRules(&b, rules)
	return policy.Source{Path: "suggested", Data: []byte(b.String())}
}

// YAML returns the rules as a file, with the log's story as comments.
func (s *Suggestion) YAML() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Suggested from an audit log of %s.\n", count(s.Attempts, "attempt"))
	if s.Lost > 0 {
		fmt.Fprintf(&b, "# %d more were too many to be told one by one, and are not considered.\n", s.Lost)
	}
	if s.Actions > 0 {
		fmt.Fprintf(&b, "# %s of the agent API are not considered.\n", count(s.Actions, "action"))
	}
	fmt.Fprintf(&b, "# Replayed with these rules, %s.\n", s.Proof())
	list(&b, s.Changed, "Allowed in the log and denied by these rules, which cannot tell it from what was denied:")
	list(&b, s.Apart, "Observed only: enforce would have denied it, and so do these rules:")
	list(&b, s.Denied, "Denied in the log, and by these rules:")
	b.WriteString("\n")
	writeRules(&b, s.Rules)
	return b.String()
}

// Proof is the replay in one line.
func (s *Suggestion) Proof() string {
	text := fmt.Sprintf("%d of %d attempts change verdict", total(s.Changed), s.Attempts)
	if n := s.Taken(); n > 0 {
		text += fmt.Sprintf(", and %d that enforce would have denied are allowed", n)
	}
	return text
}

// Taken returns the attempts that observe alone let pass and the rules allow.
func (s *Suggestion) Taken() int {
	return s.Attempts - s.Allowed - total(s.Apart) - total(s.Denied)
}

func total(list []Entry) int {
	n := 0
	for _, e := range list {
		n += e.Count
	}
	return n
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// list writes entries as comments. They hold text from inside the sandbox,
// which must stay on its line.
func list(b *strings.Builder, entries []Entry, head string) {
	if len(entries) == 0 {
		return
	}
	fmt.Fprintf(b, "#\n# %s\n", head)
	for i, e := range entries {
		if i == maxListed {
			fmt.Fprintf(b, "#   and %d other targets\n", len(entries)-i)
			return
		}
		fmt.Fprintf(b, "#   %s %s", e.Layer, escape.Text(e.Target))
		if e.Count > 1 {
			fmt.Fprintf(b, " ×%d", e.Count)
		}
		if e.Process != "" {
			fmt.Fprintf(b, " by %s", escape.Text(e.Process))
		}
		if e.Rule != policy.DefaultPolicy && e.Rule != "" && len(e.Rules) == 0 {
			fmt.Fprintf(b, " (rule %s)", escape.Text(e.Rule))
		}
		b.WriteString("\n")
		for _, r := range e.Rules {
			fmt.Fprintf(b, "#     %s\n", r)
		}
	}
}

func writeRules(b *strings.Builder, rules []Rule) {
	b.WriteString("version: \"1\"\n")
	if len(rules) == 0 {
		b.WriteString("rules: []\n")
		return
	}
	b.WriteString("rules:\n")
	told := false
	for _, r := range rules {
		if r.WouldDeny && !told {
			told = true
			b.WriteString("  # From here on: enforce would have denied it. Keep what the command is meant to reach.\n")
		}
		fmt.Fprintf(b, "  - id: %s\n    description: %s\n    condition: '%s'\n    action: allow\n", r.ID, strconv.Quote(about(r)), r.Condition)
		if len(r.Ports) > 0 || r.Private {
			fmt.Fprintf(b, "    egress: {%s}\n", egress(r))
		}
	}
}

// egress tells no mode: the rules hold with --no-proxy, too.
func egress(r Rule) string {
	var parts []string
	if len(r.Ports) > 0 {
		parts = append(parts, "ports: ["+portList(r.Ports)+"]")
	}
	if r.Private {
		parts = append(parts, "allow_private_ips: true")
	}
	return strings.Join(parts, ", ")
}

// maxName bounds a program's name in a description.
const maxName = 40

// about says what a rule is for: how often, and by which programs.
func about(r Rule) string {
	text := count(r.Attempts, "attempt")
	for i, p := range r.Processes {
		if len(p) > maxName {
			p = p[:maxName]
		}
		text += map[bool]string{true: " by ", false: ", "}[i == 0] + escape.Text(p)
	}
	if r.parent != "" {
		text += "; stands for " + count(len(r.parts), "rule") + " below " + r.parent
	}
	if r.WouldDeny {
		text += "; " + replay.WouldDeny
	}
	return text
}
