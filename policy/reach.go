package policy

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// MaxReach bounds the names and networks of one list of what is reachable.
const MaxReach = 200

// maxReachTries bounds the targets that are tried for it, however many ports
// the rules name.
const maxReachTries = 2000

// A Reach is one name or network that an allow rule names, and the ways to it
// that Explain allows. It tells people where to begin: what is judged is each
// attempt, and rules can allow by other marks than names.
type Reach struct {
	To    string   // a name, .name for all below it too, or a network
	Allow []string // https, http, tcp/22, udp/53; "tcp/22 (some protocols)" where it depends on the bytes
}

// Reach lists what the rules name and allow, in the order of the rules; more
// tells that there is more than MaxReach. No question is asked for it.
func (s *Snapshot) Reach(who Who, h *Host) (list []Reach, more bool) {
	seen := map[string]int{}
	tries := 0
	for _, r := range s.rules {
		if r.Block {
			continue
		}
		for _, to := range r.places() {
			i, known := seen[to]
			if !known {
				if len(seen) == MaxReach {
					return reachable(list), true
				}
				i = len(list)
				seen[to] = i
				list = append(list, Reach{To: to})
			}
			for _, t := range r.targets(to) {
				if tries++; tries > maxReachTries {
					return reachable(list), true
				}
				list[i].try(s, who, h, t)
			}
		}
	}
	return reachable(list), false
}

func reachable(list []Reach) []Reach {
	return slices.DeleteFunc(list, func(r Reach) bool { return len(r.Allow) == 0 })
}

// places are the names and networks that the condition compares with.
func (r *Rule) places() (out []string) {
	add := func(to string) {
		if to != "" && !slices.Contains(out, to) {
			out = append(out, to)
		}
	}
	for _, u := range r.c.texts {
		name := strings.Trim(strings.ToLower(u.value), ".")
		if 1<<u.field&nameFields == 0 {
			continue
		}
		if _, err := canonicalName(name); err != nil {
			continue
		}
		if u.below {
			name = "." + name
		}
		add(name)
	}
	for _, p := range r.c.ip.lits {
		add(p.String())
	}
	return out
}

// targets are what is tried of a place: https, http, and the ports that the
// rule names.
func (r *Rule) targets(to string) []string {
	host := strings.TrimPrefix(to, ".")
	if p, err := netip.ParsePrefix(to); err == nil {
		if host = p.Addr().String(); p.Addr().Is6() {
			host = "[" + host + "]"
		}
	}
	out := []string{"https://" + host + "/", "http://" + host + "/"}
	for _, port := range r.boundPorts() {
		out = append(out, ways(host, int64(port))...)
	}
	for _, port := range r.c.port.consts[:min(len(r.c.port.consts), maxTried)] {
		out = append(out, ways(host, port)...)
	}
	return out
}

func ways(host string, port int64) []string {
	if port <= 0 || port > 65535 {
		return nil
	}
	hp := host + ":" + strconv.FormatInt(port, 10)
	if port == 443 || port == 80 {
		return []string{"udp://" + hp}
	}
	return []string{"tcp://" + hp, "udp://" + hp}
}

// try adds a way if it is not denied.
func (r *Reach) try(s *Snapshot, who Who, h *Host, text string) {
	t, err := parseTarget(text)
	if err != nil {
		return
	}
	label := t.scheme
	if t.scheme == "tcp" || t.scheme == "udp" {
		label += "/" + strconv.Itoa(int(t.port))
	}
	if slices.ContainsFunc(r.Allow, func(a string) bool { return strings.HasPrefix(a+" ", label+" ") }) {
		return
	}
	ask, _ := asked(nil)
	x := s.explain(ExplainQuery{Target: text, Who: who, Host: h, Resolve: ask, bare: true}, t)
	switch {
	case x.Verdict == VerdictAllow:
		r.Allow = append(r.Allow, label)
	case x.Verdict == VerdictDepends && t.scheme == "tcp":
		r.Allow = append(r.Allow, label+" (some protocols)")
	}
}
