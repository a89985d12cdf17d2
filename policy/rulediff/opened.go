package rulediff

import (
	"fmt"
	"strings"

	"outcall/policy"
	"outcall/policy/probe"
)

// An Opening is an event that one rule set denies and another lets pass.
type Opening struct {
	Event probe.Event
	Rule  string // of the second set
}

// Opened asks what rules that only b has let one agent do beyond a: about
// events that the constants of those rules suggest. left counts the rules that
// had more events than are tried.
func Opened(a, b *policy.Snapshot, who policy.Who) (out []Opening, left int, err error) {
	events, left := eventsOf(a, b, who)
	for _, e := range events {
		after, err := e.Ask(b)
		if err != nil {
			return nil, 0, fmt.Errorf("ask about %s: %w", e, err)
		}
		if !passes(e, after) {
			continue
		}
		before, err := e.Ask(a)
		if err != nil {
			return nil, 0, fmt.Errorf("ask about %s: %w", e, err)
		}
		if !passes(e, before) {
			out = append(out, Opening{e, after.Rule})
		}
	}
	return out, left, nil
}

// passes reports what has its effect: a question that is answered, and a step
// after which nothing more is asked.
func passes(e probe.Event, a probe.Answer) bool {
	return a.Verdict == policy.VerdictAllow || e.Layer == policy.LayerDNS && a.Verdict == policy.Provisional.String()
}

// Target is the name, address or tool that an event is about. A name that no
// rule has stands for those it was derived from: below, ending with, or any.
func Target(e probe.Event, named func(name string) bool) string {
	text := func(field string) string { s, _ := e.Fields[field].(string); return s }
	for _, f := range []string{"dns.query", "tls.sni", "http.host", "network.hostname"} {
		name := text(f)
		switch {
		case name == "":
			continue
		case name == other+".test":
			return "any name"
		case named(name):
			return name
		case strings.HasPrefix(name, "x.") && named(name[2:]):
			return "*." + name[2:]
		case strings.HasPrefix(name, "x") && named(name[1:]):
			return "*" + name[1:]
		}
		return name
	}
	if tool, ok := e.Fields["run.tool"].(string); ok {
		if tool == other {
			return "any tool"
		}
		return tool
	}
	return text("network.ip")
}

// Use says in few words what an event does with its target.
func Use(e probe.Event) string {
	at := fmt.Sprintf("%v/%v", e.Fields["network.protocol"], e.Fields["network.port"])
	switch e.Layer {
	case policy.LayerDNS:
		return fmt.Sprintf("dns %v", e.Fields["dns.record_type"])
	case policy.LayerFlow:
		if e.Fields["network.port"] == nil {
			return fmt.Sprint(e.Fields["network.protocol"])
		}
		return at
	case policy.LayerHello:
		return "tls " + at
	case policy.LayerRaw:
		return "any bytes " + at
	case policy.LayerRequest:
		return fmt.Sprintf("http %v %v port %v", e.Fields["http.method"], e.Fields["http.path"], e.Fields["network.port"])
	case policy.LayerRun:
		if args, _ := e.Fields["run.args"].([]string); len(args) > 0 {
			return "run with " + strings.Join(args, " ")
		}
		return "run"
	}
	return fmt.Sprintf("%s port %v", e.Layer, e.Fields["network.port"])
}
