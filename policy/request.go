package policy

import (
	"errors"
	"fmt"
)

// CheckRequest checks a rule file that an agent proposes, against the rules
// that are active. What an operator alone may write is refused: it would
// widen more than its reader may notice.
func CheckRequest(text []byte, active *Snapshot) error {
	s, err := Load([]Source{{Path: "rule_file", Data: text, Origin: Request}})
	if err != nil {
		return err
	}
	if len(s.rules) == 0 {
		return errors.New("rule_file: there are no rules in it")
	}
	known := map[string]bool{}
	if active != nil {
		for _, r := range active.rules {
			known[r.ID] = true
		}
	}
	process := FieldSet(0).With(ProcessExe).With(ProcessName).With(ProcessArgs)
	for _, r := range s.rules {
		why := ""
		switch {
		case known[r.ID]:
			why = "a rule of this id is already active"
		case r.Priority < 0:
			why = "a negative priority is the operator's"
		case r.AllowPrivate:
			why = "allow_private_ips is the operator's"
		case r.Mode == ModeDirectIP:
			why = "egress.mode: direct_ip is the operator's"
		case r.c.fields&process != 0:
			why = "process.* is the operator's"
		}
		if why != "" {
			return fmt.Errorf("rule_file:%d: rule %s: %s", r.Line, r.ID, why)
		}
	}
	return nil
}
