package policy

import (
	"net/netip"
	"slices"
	"strings"
)

const (
	processFields = FieldSet(1<<ProcessExe | 1<<ProcessName | 1<<ProcessArgs)
	runFields     = FieldSet(1<<RunTool | 1<<RunArgs | 1<<RunFlags | 1<<RunCwd | 1<<RunContext)
	whoFields     = FieldSet(1<<AgentName | 1<<SessionName)
	nameFields    = FieldSet(1<<DNSQuery | 1<<NetworkHostname | 1<<HTTPHost | 1<<TLSSNI)
	whereFields   = nameFields | 1<<NetworkIP
)

// allowRule warns of what one allow rule opens or fails to open.
func (w *warner) allowRule(r *Rule) {
	if r.c.fields&processFields != 0 && r.c.fields&^(processFields|whoFields) == 0 {
		w.rule(r, WarnProcess, "is narrowed only by process.*, which a program can hide or impersonate")
	}
	told := map[string]bool{}
	for _, u := range r.c.texts {
		if 1<<u.field&(nameFields&^(1<<DNSQuery)) == 0 || u.field == NetworkIP || told[u.value] {
			continue
		}
		if _, err := netip.ParseAddr(u.value); err != nil && !w.resolvable(u) {
			told[u.value] = true
			w.rule(r, WarnUnresolvable, "allows %s by %s, but no rule lets DNS resolve it", u.value, u.field)
		}
	}
	if r.Mode == ModeDirectIP && w.wideDirect(r) {
		w.rule(r, WarnWideDirect, "opens every address that any name below a suffix or of a pattern resolves to, unread (direct_ip)")
	}
	if w.anyPort(r) {
		w.rule(r, WarnAnyPort, "allows by network.hostname without a port: it opens every TCP and UDP port of the name")
	}
	w.allBut(r)
}

// resolvable reports whether some allow rule could answer a question for the
// name, or for something below the suffix.
func (w *warner) resolvable(u textUse) bool {
	name := strings.Trim(u.value, ".")
	if w.any || w.exact[name] || u.value == "" {
		return true
	}
	for {
		if w.below[name] {
			return true
		}
		_, up, ok := strings.Cut(name, ".")
		if !ok {
			return false
		}
		name = up
	}
}

// patterns are the ways to compare a name that do not say which one it is.
var patterns = []string{"!", "matches", "startsWith", "contains", "?", "exists", "all", "size", "substring", "split", "<", ">"}

// patterned reports whether a condition may compare names in such a way, so
// that it is worth while to look into it.
func (r *Rule) patterned() bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return strings.Contains(r.Condition, p) }) ||
		strings.Contains(r.Condition, "$")
}

// wideDirect reports whether a direct_ip rule grants for names that it does
// not name one by one. Rules that speak of addresses grant for those alone.
func (w *warner) wideDirect(r *Rule) bool {
	grants := layerFields[LayerDNS] | layerFields[LayerFlow]
	named := false
	for _, u := range r.c.texts {
		if u.field == DNSQuery || u.field == NetworkHostname {
			if u.below {
				return true
			}
			named = true
		}
	}
	wide := func(s FieldSet) bool { return s&^grants == 0 && s&(1<<NetworkIP|1<<DNSQuery|1<<NetworkHostname) == 0 }
	if slices.ContainsFunc(r.c.needs, wide) {
		return true
	}
	if !named {
		return r.c.fields.Has(DNSQuery)
	}
	if !r.patterned() {
		return false
	}
	s, ok := w.shape(r)
	return ok && slices.ContainsFunc(s, func(c cube) bool {
		return c.fields()&^grants == 0 && c.fields()&(1<<DNSQuery|1<<NetworkHostname) != 0 &&
			!slices.ContainsFunc(c, func(a atom) bool {
				return a.kind == isEqual && !a.not && (a.field == DNSQuery || a.field == NetworkHostname)
			})
	})
}

// anyPort reports whether the rule names a host by network.hostname and, in
// that alternative, no port.
func (w *warner) anyPort(r *Rule) bool {
	if !r.c.fields.Has(NetworkHostname) || len(r.boundPorts()) > 0 {
		return false
	}
	if !r.c.fields.Has(NetworkPort) {
		return slices.ContainsFunc(r.c.needs, func(s FieldSet) bool {
			return s.Has(NetworkHostname) && s&^layerFields[LayerFlow] == 0
		})
	}
	s, ok := w.shape(r)
	return ok && slices.ContainsFunc(s, func(c cube) bool {
		f := c.fields()
		return f.Has(NetworkHostname) && !f.Has(NetworkPort) && f&^layerFields[LayerFlow] == 0
	})
}

// allBut warns of an alternative that allows by what a name or an address is
// not: all others are open then.
func (w *warner) allBut(r *Rule) {
	if r.c.fields&whereFields == 0 || !r.patterned() {
		return
	}
	s, _ := w.shape(r)
	for _, c := range s {
		var but *atom
		for i, a := range c {
			if a.field < NumFields && 1<<a.field&whereFields != 0 {
				if !a.not {
					but = nil
					break
				}
				but = &c[i]
			}
		}
		if but != nil && onOneLayer(c.fields()) {
			w.rule(r, WarnAllBut, "allows by what %s is not: every other one is allowed, where the layer knows it", but.field)
			return
		}
	}
}
