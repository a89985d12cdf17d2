package policy

import (
	"fmt"
	"strings"
)

// smallest finds the smallest rule that would allow the target, and proves it
// by explaining the target again with the rule added.
func (x *Explanation) smallest(s *Snapshot, q ExplainQuery, t target) {
	for _, c := range proposals(t) {
		src, err := c.source()
		if err != nil {
			continue
		}
		with, err := s.with(src)
		if err != nil {
			continue
		}
		if y := with.explain(q, t); y.Verdict == VerdictAllow {
			x.Smallest, x.Advice = c.text, c.how
			return
		}
	}
	x.Advice = "no added rule would allow it: " + x.Reason
	for _, r := range x.Routes {
		for _, st := range r.Steps {
			if st.Word == Deny.String() && st.File != "" {
				x.Advice = fmt.Sprintf("no added rule would allow it: the block %s stands before it (%s:%d)", st.Rule, st.File, st.Line)
				return
			}
		}
	}
}

// A proposal is a rule that may allow a target: an --allow target or a file.
type proposal struct {
	text, how string
	file      bool
}

func (p proposal) source() (Source, error) {
	if p.file {
		return Source{Path: "proposed", Data: []byte(p.text), Origin: CLI}, nil
	}
	return AllowTargets([]string{p.text})
}

// proposals are tried in order: the narrowest first.
func proposals(t target) []proposal {
	hostPort := fmt.Sprintf("%s:%d", t.host, t.port)
	if t.addr.Is6() {
		hostPort = fmt.Sprintf("[%s]:%d", t.host, t.port)
	}
	flag := func(text string) proposal { return proposal{text: text, how: "--allow " + text} }
	rule := func(cond, egress string) proposal {
		text := "version: \"1\"\nrules:\n  - id: allow-" + t.scheme + "-" + strings.NewReplacer(":", "-").Replace(t.host) +
			"\n    action: allow\n    condition: '" + cond + "'\n"
		if egress != "" {
			text += "    egress: {" + egress + "}\n"
		}
		return proposal{text: text, how: "a rule file", file: true}
	}
	is := func(f Field) string { return fmt.Sprintf(`%s == "%s"`, f, t.host) }
	udp := fmt.Sprintf(`%s || (%s && network.protocol == "udp" && network.port == %d)`, is(DNSQuery), is(NetworkHostname), t.port)
	icmp := `network.protocol == "icmp"`
	private := fmt.Sprintf("mode: proxy, ports: [%d], allow_private_ips: true", t.port)
	switch {
	case t.scheme == "dns" && typeIsUsual(t.typ):
		return []proposal{rule(is(DNSQuery), "")}
	case t.scheme == "dns":
		return []proposal{rule(fmt.Sprintf(`%s && dns.record_type == "%s"`, is(DNSQuery), t.typ), "")}
	case t.scheme == "icmp" && t.addr.IsValid():
		return []proposal{rule(is(NetworkIP)+" && "+icmp, "")}
	case t.scheme == "icmp":
		named := is(DNSQuery) + " || (" + is(NetworkHostname) + " && " + icmp + ")"
		return []proposal{rule(named, ""), rule(named, "allow_private_ips: true")}
	case t.scheme == "udp" && t.addr.IsValid():
		return []proposal{rule(fmt.Sprintf(`%s && network.protocol == "udp" && network.port == %d`, is(NetworkIP), t.port), "")}
	case t.addr.IsValid():
		return []proposal{flag(hostPort)}
	case t.scheme == "udp":
		return []proposal{rule(udp, ""), rule(udp, private)}
	case t.scheme == "tcp" || t.port != 443 && t.port != 80:
		return []proposal{flag(hostPort), rule(is(DNSQuery)+" || "+is(NetworkHostname), private)}
	}
	return []proposal{flag(t.host), rule(is(DNSQuery)+" || "+is(HTTPHost), private)}
}

// with returns the set with the rules of one more source.
func (s *Snapshot) with(src Source) (*Snapshot, error) {
	more, err := Load([]Source{src})
	if err != nil {
		return nil, err
	}
	rules := make([]*Rule, 0, len(s.rules)+len(more.rules))
	rules = append(append(rules, s.rules...), more.rules...)
	out := newSnapshot(ordered(rules), s.files+1)
	out.Generation = s.Generation
	return out, nil
}
