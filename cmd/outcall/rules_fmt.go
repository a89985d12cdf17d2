package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"outcall/policy/escape"
	"outcall/policy/rulefmt"
)

func (a *app) rulesFmtCommand() *cobra.Command {
	var check *bool
	c := a.cmd("fmt PATH... [--check]", "write rule files in one form, comments kept", atLeast("PATH"),
		func(_ context.Context, args []string) error {
			changed, err := rulefmt.Files(*check, args...)
			for _, p := range changed {
				if _, err := io.WriteString(a.io.out, escape.Text(p)+"\n"); err != nil {
					return a.written(err)
				}
			}
			if err != nil {
				return fmt.Errorf("rules fmt: %w", err)
			}
			if *check && len(changed) > 0 {
				return &codeError{code: exitError}
			}
			return nil
		})
	c.Long = `Writes rule files and those of directories in one form, in their place, and
prints the paths of those that changed. Meaning and comments stay: what is
written is read again and compared, and a file for which that fails is left as
it is, with an error.`
	check = c.Flags().Bool("check", false, "write nothing; exit code 1 if a file would change")
	return c
}
