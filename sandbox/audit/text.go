package audit

import (
	"fmt"
	"strings"

	"outcall/policy"
	"outcall/policy/escape"
)

// Text writes an event as one line for people, without newline. Nothing in it
// can move a terminal's cursor.
func Text(e policy.Event) string {
	var b strings.Builder
	add := func(format string, args ...any) {
		for i, a := range args {
			if s, ok := a.(string); ok {
				args[i] = escape.Text(s)
			}
		}
		fmt.Fprintf(&b, format, args...)
	}
	add("%s ", e.Time.Local().Format("15:04:05.000"))
	if e.Event == "verdict" {
		add("%-10s %-7s", e.Verdict, e.Layer)
	} else {
		add("%-10s %-7s", e.Event, e.Layer)
	}
	if t := target(&e); t != "" {
		add(" %s", t)
	}
	for _, s := range []string{e.RecordType, e.Protocol, e.Method, e.Path} {
		if s != "" {
			add(" %s", s)
		}
	}
	if e.Rule != "" {
		add("  %s", e.Rule)
	}
	if e.Reason != "" && e.Reason != e.Rule {
		add(": %s", e.Reason)
	}
	if e.Count > 1 {
		add("  ×%d", e.Count)
	}
	if e.Event == "end" {
		add("  in %d out %d bytes, %d ms", e.BytesIn, e.BytesOut, e.DurationMS)
	}
	if e.ID != "" {
		add("  %s", e.ID)
	}
	if p := e.Process; p != nil {
		add("  [%d %s]", p.PID, p.Exe)
	}
	return b.String()
}
