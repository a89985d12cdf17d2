package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"outcall/policy"
	"outcall/policy/replay"
	"outcall/policy/suggest"
)

// suggestFlags say from what, and how far.
type suggestFlags struct {
	audit  string
	opt    suggest.Options
	asJSON *bool
}

func (a *app) suggestCommand() *cobra.Command {
	var f suggestFlags
	c := a.cmd("suggest [NAME] [--audit PATH] [--would-deny] [--group] [--json]", "the smallest rules that allow what a session used", atMostOne,
		func(ctx context.Context, args []string) error {
			if f.audit != "" && len(args) > 0 {
				return usagef("NAME and --audit exclude each other")
			}
			s, err := a.suggest(ctx, &f, one(args))
			if err != nil {
				return err
			}
			return a.printSuggestion(&f, s)
		})
	c.Long = `Prints a rule file with the smallest rules that allow what the audit log of a
session says was allowed: one for each host and kind of use, the narrowest
first. What was denied stays denied.

What --mode observe let pass although enforce would have denied it stands apart
as a comment, and becomes rules only with --would-deny; what a block rule denies
never does. With --group three or more allowed names below one parent become a
rule for the parent; a public suffix is never such a parent.

The whole log is replayed against the rules before they are printed. If an
attempt that was allowed would be denied, it is named and the exit code is 1.`
	c.Example = `  outcall run --mode observe --name first -- make
  outcall suggest first --would-deny > rules.yaml`
	fs := c.Flags()
	fs.StringVar(&f.audit, "audit", "", "read the audit log at `PATH` (default: the session's)")
	fs.BoolVar(&f.opt.WouldDeny, "would-deny", false, "make rules of what observe let pass, too")
	fs.BoolVar(&f.opt.Group, "group", false, "let a parent stand for three or more allowed names below it")
	f.asJSON = jsonFlag(c)
	return c
}

// suggest reads the log and asks for rules.
func (a *app) suggest(ctx context.Context, f *suggestFlags, name string) (*suggest.Suggestion, error) {
	var log replay.Log
	n := 0
	add := func(line []byte) error {
		n++
		var e policy.Event
		if err := json.Unmarshal(line, &e); err != nil || e.Event == "" {
			// A log that lacks a line must not look like one that was read.
			return fmt.Errorf("line %d of the audit log is no event", n)
		}
		log.Add(e)
		return nil
	}
	var err error
	if f.audit != "" {
		err = auditFile(f.audit, add)
	} else {
		err = a.auditLines(ctx, name, false, add)
	}
	if err != nil {
		return nil, err
	}
	return suggest.From(&log, f.opt)
}

// suggestionText is a suggestion as --json prints it.
type suggestionText struct {
	Rules    string          `json:"rules"`
	Attempts int             `json:"attempts"`
	Allowed  int             `json:"allowed"`
	Taken    int             `json:"would_deny_taken"`
	Lost     int             `json:"lost,omitempty"`
	Changed  []suggest.Entry `json:"changed"`
	Apart    []suggest.Entry `json:"would_deny"`
	Denied   []suggest.Entry `json:"denied"`
}

func (a *app) printSuggestion(f *suggestFlags, s *suggest.Suggestion) error {
	text := s.YAML()
	err := a.print(*f.asJSON, suggestionText{
		Rules: text, Attempts: s.Attempts, Allowed: s.Allowed, Taken: s.Taken(), Lost: s.Lost,
		Changed: append([]suggest.Entry{}, s.Changed...), Apart: append([]suggest.Entry{}, s.Apart...), Denied: append([]suggest.Entry{}, s.Denied...),
	}, func(w io.Writer) { io.WriteString(w, text) })
	if err == nil && len(s.Changed) > 0 {
		err = errors.New(s.Proof())
	}
	return err
}
