package sandbox

import (
	"fmt"
	"strings"

	"outcall/policy"
	"outcall/policy/escape"
	"outcall/sandbox/idmap"
)

// startLine is the text of the audit's first line: what is weaker than the
// default stands in it.
func (s *supervisor) startLine() string {
	snap := s.snap.Load()
	text := fmt.Sprintf("mode %s, %d rules of %d files", s.mode(), len(snap.Rules()), snap.Files())
	if len(s.cfg.Weak) > 0 {
		text += ", weak: " + strings.Join(s.cfg.Weak, ", ")
	}
	return text
}

// banner writes the one line before the command, and one line for each load
// warning under -v.
func (s *supervisor) banner() {
	if s.cfg.Quiet {
		return
	}
	snap := s.snap.Load()
	n := len(snap.Rules())
	parts := []string{plural(n, "rule")}
	switch {
	case n == 0 && !s.cfg.Observe:
		parts[0] = "0 rules: everything is denied"
	case s.cfg.Observe:
		parts = append(parts, "OBSERVE: what a rule would deny is let through")
	}
	parts = append(parts, "session "+s.who.Session)
	for _, w := range s.cfg.Weak {
		parts = append(parts, "WEAK: "+w)
	}
	if s.linkName != "packet" {
		parts = append(parts, "link "+s.linkName)
	}
	for _, p := range s.sess.Info.Published {
		parts = append(parts, "published "+p.String())
	}
	parts = append(parts, s.notes...)
	s.say(strings.Join(parts, " · "))
	if s.cfg.Verbose {
		for _, w := range snap.Warnings() {
			s.say("warning: " + w)
		}
	}
}

// singleRoot says why root inside has no other ids to change to.
func singleRoot(ids idmap.Plan) string {
	why := "this user has no subordinate ids, or there is no newuidmap"
	switch {
	case len(ids.UIDs) > 1:
		why = "newuidmap refused"
	case ids.NoNewPrivs:
		why = "newuidmap is set-uid and cannot act under no_new_privs, as inside a session"
	}
	return "root inside has a single id (" + why + "; outcall doctor tells the mend)"
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// summary says what was denied, the most frequent first: at most
// audit.TopDenials lines.
func (s *supervisor) summary() {
	if s.cfg.Quiet {
		return
	}
	sum := s.audit.w.Summary()
	for i, d := range sum.Top {
		line := fmt.Sprintf("denied %s %s: %s (%s)", d.Layer, d.Target, d.Reason, d.ID)
		if d.Verdict == "would_deny" {
			line = "would deny" + strings.TrimPrefix(line, "denied")
		}
		if d.Count > 1 {
			line += fmt.Sprintf(" ×%d", d.Count)
		}
		if d.Tool {
			line += " · to allow it: a rule on run.tool"
		} else {
			line += " · " + policy.Remedy(d.Target, d.Rule, d.Structural)
		}
		if i == len(sum.Top)-1 && sum.Rest > 0 {
			line += fmt.Sprintf(" · and %d more: outcall log %s --denied", sum.Rest, s.who.Session)
		}
		s.say(line)
	}
	if s.cfg.Verbose {
		s.say("audit " + s.sess.Info.Audit + " head " + s.audit.w.Head())
	}
}

// say writes one line of ours to standard error. What came from inside is
// escaped, whoever wrote it into the text.
func (s *supervisor) say(text string) {
	if s.cfg.Stderr == nil {
		return
	}
	// With a terminal in raw mode a line must bring its own carriage return.
	fmt.Fprintf(s.cfg.Stderr, "outcall: %s\n", escape.Text(text))
}

// seen is called with every event that the audit takes.
func (s *supervisor) seen(e policy.Event) {
	s.counts.add(e)
	s.denials.Add(e)
	if s.cfg.Quiet || e.Event != "verdict" || e.Rule == "" {
		return
	}
	snap := s.snap.Load()
	if snap == nil {
		return
	}
	for _, r := range snap.Rules() {
		if r.ID == e.Rule {
			if r.Log {
				s.say(fmt.Sprintf("%s %s by rule %s: %s", e.Layer, e.Verdict, e.Rule, target(e)))
			}
			return
		}
	}
}

// target is what an event was about, in a few words.
func target(e policy.Event) string {
	switch {
	case e.Layer == "run" && e.Host == "":
		return e.Path
	case e.Query != "":
		return e.Query + " " + e.RecordType
	case e.Host != "" && e.Port != 0:
		return fmt.Sprintf("%s:%d", e.Host, e.Port)
	case e.Host != "":
		return e.Host
	case e.IP != "" && e.Port != 0:
		return fmt.Sprintf("%s port %d", e.IP, e.Port)
	}
	return e.IP
}
