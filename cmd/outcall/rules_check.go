package main

import (
	"context"
	"encoding/json"

	"github.com/spf13/cobra"

	"outcall/policy/rulecheck"
)

func (a *app) rulesCheckCommand() *cobra.Command {
	var asJSON, strict *bool
	var format *string
	c := a.cmd("check PATH... [--strict] [--json | --format FORMAT]", "check rule files; needs no session", atLeast("PATH"),
		func(_ context.Context, args []string) error {
			if *asJSON {
				*format = "json"
			}
			return a.check(rulecheck.Check(*strict, args...), *format)
		})
	c.Long = `Reads rule files and directories as a session would and prints one finding a
line: errors as path:line: text, warnings as path:line: warning: text. Exit code
1 if there is an error, or with --strict anything at all. --format sarif is for
systems that show findings beside the lines of a change.`
	asJSON = jsonFlag(c)
	strict = c.Flags().Bool("strict", false, "warnings are errors")
	format = c.Flags().String("format", "text", "`FORMAT` of the findings: text, json or sarif")
	return c
}

func (a *app) check(r *rulecheck.Report, format string) error {
	var err error
	switch format {
	case "text":
		err = r.WriteText(a.io.out)
	case "json":
		enc := json.NewEncoder(a.io.out)
		enc.SetIndent("", "  ")
		err = enc.Encode(r)
	case "sarif":
		err = r.WriteSARIF(a.io.out, version)
	default:
		return usagef("--format %q: want text, json or sarif", format)
	}
	if err != nil {
		return a.written(err)
	}
	if !r.OK {
		return &codeError{code: exitError}
	}
	return nil
}
