package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"outcall/policy"
	"outcall/policy/replay"
	"outcall/policy/rulediff"
)

// diffFlags say over what two rule sets are compared.
type diffFlags struct {
	on           string
	asJSON, code *bool
}

func (a *app) rulesDiffCommand() *cobra.Command {
	var f diffFlags
	c := a.cmd("diff A B [--on AUDIT] [--exit-code] [--json]", "which events two rule sets decide otherwise", exactly("A", "B"),
		func(_ context.Context, args []string) error {
			r, err := a.diff(f.on, args[0], args[1])
			if err != nil {
				return err
			}
			if *f.asJSON {
				enc := json.NewEncoder(a.io.out)
				enc.SetIndent("", "  ")
				err = enc.Encode(r)
			} else {
				err = r.WriteText(a.io.out)
			}
			if err != nil {
				return a.written(err)
			}
			if *f.code && r.Changed > 0 {
				return &codeError{code: exitError}
			}
			return nil
		})
	c.Long = `Loads the rule files A and B (files or directories) and prints the events whose
verdict changes from A to B. Without --on the events are derived from the
constants of all rules: their names, what is below and beside them, their ports
and addresses and the next ones, methods, paths, agents and programs. With --on
they are the attempts of an audit log. No session is needed.`
	c.Example = `  outcall rules diff /etc/outcall/rules.d new/ --on audit.jsonl`
	c.Flags().StringVar(&f.on, "on", "", "the attempts of the audit log at `AUDIT`")
	f.code = c.Flags().Bool("exit-code", false, "exit code 1 if a verdict changes")
	f.asJSON = jsonFlag(c)
	return c
}

func (a *app) diff(on, before, after string) (*rulediff.Report, error) {
	x, err := loadPath(before)
	if err != nil {
		return nil, err
	}
	y, err := loadPath(after)
	if err != nil {
		return nil, err
	}
	if on == "" {
		return rulediff.Derived(x, y)
	}
	var log replay.Log
	n := 0
	err = auditFile(on, func(line []byte) error {
		n++
		var e policy.Event
		if err := json.Unmarshal(line, &e); err != nil || e.Event == "" {
			return fmt.Errorf("line %d of %s is no event", n, on)
		}
		log.Add(e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return rulediff.Replayed(x, y, &log), nil
}

func loadPath(path string) (*policy.Snapshot, error) {
	src, err := policy.ReadPaths(policy.Operator, path)
	if err != nil {
		return nil, err
	}
	return policy.Load(src)
}
