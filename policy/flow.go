package policy

import (
	"fmt"
	"net/netip"
	"slices"

	"outcall/policy/urlpath"
)

// Flow judges a first packet for each live candidate of its address, the name
// resolved last first, and returns the best. f has address, port, protocol
// and process set; name and grants are set by Flow. Without candidates the
// flow is judged without a name. Restricted addresses and the rule that an
// open word needs a live pin are applied here (Structural).
func (s *Snapshot) Flow(f *Facts, addr netip.Addr, cands []Candidate, h *Host) Flow {
	return s.best(f, addr, cands, h)
}

// Content judges what the bytes of a flow turned out to be (hello, request,
// raw, connect). For hello, connect and request the name in f must be one of
// cands' names, else the denial is structural; addr may be invalid where it
// is not known yet. A ClientHello without a name agrees with none, so that it
// passes only where no name is pinned. Bytes without a name (raw, a CONNECT to
// a literal address) are judged as the flow was, for the best of the
// candidates.
func (s *Snapshot) Content(f *Facts, addr netip.Addr, cands []Candidate, h *Host) Flow {
	if !addr.IsValid() {
		return s.judge(f, addr, h)
	}
	if reason := otherAddress(f, addr); reason != "" {
		return structural(f.name, reason)
	}
	if f.name == "" && f.layer == LayerHello && len(cands) > 0 {
		return structural("", "a ClientHello without a name, at an address that belongs to one")
	}
	if f.name == "" || f.layer == LayerRaw {
		if f.layer == LayerRaw || f.layer == LayerConnect {
			return s.best(f, addr, cands, h)
		}
		return s.judge(f, addr, h)
	}
	i := slices.IndexFunc(cands, func(c Candidate) bool { return c.Name == f.name })
	if i < 0 {
		return structural(f.name, "the name in the bytes is not one that was resolved to this address")
	}
	g := f.Clone()
	g.SetGrants(cands[i].Grants)
	return s.judge(g, addr, h)
}

// otherAddress says what is wrong where the bytes name an address by itself
// and it is not the one that is dialled.
func otherAddress(f *Facts, addr netip.Addr) string {
	if f.state[HTTPHost] != Known {
		return ""
	}
	a, err := netip.ParseAddr(f.text(HTTPHost))
	if err != nil || a.Unmap() == addr.Unmap().WithZone("") {
		return ""
	}
	return "the address in the bytes is not the one that is dialled"
}

// best judges the facts once per candidate and returns the best word; ties go
// to the candidate that stands first.
func (s *Snapshot) best(f *Facts, addr netip.Addr, cands []Candidate, h *Host) Flow {
	g := f.Clone()
	if len(cands) == 0 {
		g.SetName("")
		g.SetGrants(nil)
		fl := s.judge(g, addr, h)
		if fl.Word == Open {
			out := structural("", fl.Reason+", and no name is pinned at the address")
			out.Failed = fl.Failed
			return out
		}
		return fl
	}
	var top Flow
	for i, c := range cands {
		g.SetName(c.Name)
		g.SetGrants(c.Grants)
		fl := s.judge(g, addr, h)
		if fl.Failed == nil {
			fl.Failed = top.Failed // also a candidate that does not count is told of
		}
		if i == 0 || fl.Word > top.Word {
			top = fl
		} else {
			top.Failed = fl.Failed
		}
		if top.Word == Allow {
			break
		}
	}
	return top
}

// judge is judgeOne for each reading of a request; the worst of them counts. A
// server of which it is not known how it reads gets what passes in every way.
func (s *Snapshot) judge(f *Facts, addr netip.Addr, h *Host) Flow {
	fl := s.judgeOne(f, addr, h)
	if f.layer != LayerRequest || fl.Word == Deny || f.state[HTTPPath] != Known {
		return fl
	}
	path, query := f.text(HTTPPath), f.text(HTTPQuery)
	for _, p := range append([]string{path}, urlpath.Readings(path)...) {
		q := urlpath.Query(query)
		if p == path && q == query {
			continue
		}
		g := f.Clone()
		g.set(HTTPPath, p)
		g.set(HTTPQuery, q)
		other := s.judgeOne(g, addr, h)
		if other.Failed == nil {
			other.Failed = fl.Failed
		}
		if other.Word < fl.Word {
			if p != path {
				other.Reason = fmt.Sprintf("a server may read the path as %s: %s", p, other.Reason)
			}
			fl = other
		}
	}
	return fl
}

// judgeOne is Step with what stands beside the rules: the class of the address.
// An allow rule that does not open a special address does not match there, and
// what is denied there is denied in every mode.
func (s *Snapshot) judgeOne(f *Facts, addr netip.Addr, h *Host) Flow {
	if s == nil {
		return structural(f.name, "no policy is loaded")
	}
	fl := Flow{Name: f.name, Grants: f.grants}
	if !addr.IsValid() {
		fl.Outcome = s.walk(f, nil, nil)
		return fl
	}
	if rc := classRange(addr, h); rc.class != Global {
		fl.Outcome = s.walk(f, &door{addr, rc.class, h}, nil)
		if fl.Word == Deny {
			fl.Structural = true
			fl.Reason = fmt.Sprintf("%s is %s; %s", addr, rc.why, closedReason(fl.Outcome))
		}
	} else {
		fl.Outcome = s.walk(f, nil, nil)
	}
	if fl.Word == Allow && (f.layer == LayerFlow || f.layer == LayerConnect) {
		fl.Literal = !fl.Granted && fl.Rule.onLiteral(f, addr)
		fl.Unread = fl.Granted || fl.Literal
	}
	return fl
}

func closedReason(o Outcome) string {
	if o.Rule == nil {
		return "no rule opens it"
	}
	return o.Reason
}

func structural(name, reason string) Flow {
	return Flow{Outcome: Outcome{Reason: reason}, Name: name, Structural: true}
}

// OpenAddr reports whether an address may be an answer for a name that the
// DNS facts f ask for: whether it is Global, or opened by a rule. The reason
// says why not. It is generous where a later layer is exact: the flow to the
// address is judged again.
func (s *Snapshot) OpenAddr(f *Facts, addr netip.Addr, h *Host) (ok bool, reason string) {
	rc := classRange(addr, h)
	if rc.class == Global {
		return true, ""
	}
	if s == nil {
		return false, "no policy is loaded"
	}
	g := f.Clone()
	g.SetName(f.name)
	g.set(NetworkIP, addr.Unmap().WithZone("").String())
	d := &door{addr, rc.class, h}
	q := s.ask(g, d.kind(g.name), false)
	defer q.end()
	for r := q.rule(); r != nil; r = q.rule() {
		if r.Block {
			if v, _ := r.blocks(g); v != no && v != waiting {
				break
			}
			continue
		}
		if v, _, _ := r.allows(g); v == yes || v == waiting {
			if open, _ := r.opens(g, addr, rc.class, h); open != no {
				return true, ""
			}
		}
	}
	return false, fmt.Sprintf("%s is %s, which no rule opens to this name", addr, rc.why)
}

// Grants judges the direct_ip rules at dns, once per (address, protocol,
// port): f are the facts of the DNS question. A rule grants only where the
// word of the walk with network.* known is Allow by that rule.
func (s *Snapshot) Grants(f *Facts, addr netip.Addr) []Grant {
	ports := s.directPorts()
	if len(ports) == 0 {
		return nil
	}
	g := f.Clone()
	g.SetName(f.name)
	type granting struct {
		*Rule
		grants []Grant
	}
	var rules []granting // few: one for each rule that wins on some port
	for _, port := range ports {
		for _, proto := range []Proto{TCP, UDP} {
			g.SetAddr(addr, port, proto)
			o := s.walk(g, nil, nil)
			if o.Word != Allow || o.Rule.Mode != ModeDirectIP {
				continue
			}
			i := slices.IndexFunc(rules, func(r granting) bool { return r.Rule == o.Rule })
			if i < 0 {
				i = len(rules)
				rules = append(rules, granting{Rule: o.Rule})
			}
			rules[i].grants = append(rules[i].grants, Grant{Rule: o.Rule.ID, Proto: proto, Port: port})
		}
	}
	var out []Grant
	for _, r := range rules {
		out = append(out, r.grants...)
	}
	return out
}

// directPorts returns the ports of all direct_ip rules, in order.
func (s *Snapshot) directPorts() []uint16 {
	switch {
	case s == nil:
		return nil
	case s.ix != nil:
		return s.ix.directPorts
	}
	return directPorts(s.rules)
}

func directPorts(rules []*Rule) (out []uint16) {
	for _, r := range rules {
		if !r.Block && r.Mode == ModeDirectIP {
			out = append(out, r.boundPorts()...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
