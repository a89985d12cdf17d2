package main

import (
	"context"
	"encoding/json"

	"github.com/spf13/cobra"

	"outcall/policy/ruletest"
)

func (a *app) rulesTestCommand() *cobra.Command {
	var asJSON *bool
	var rules *[]string
	c := a.cmd("test FILE... [--rules PATH] [--json]", "run the cases that stand beside a policy", atLeast("FILE"),
		func(_ context.Context, args []string) error {
			r, err := ruletest.RunFiles(*rules, args...)
			if err != nil {
				return err
			}
			if *asJSON {
				enc := json.NewEncoder(a.io.out)
				enc.SetIndent("", "  ")
				err = enc.Encode(r)
			} else {
				err = r.WriteText(a.io.out)
			}
			if err != nil {
				return a.written(err)
			}
			if !r.OK {
				return &codeError{code: exitError}
			}
			return nil
		})
	c.Long = `Asks the rules about each case of the test files and prints a difference for
every one that ends otherwise; exit code 1 if there is any. No session is
needed, and no name is resolved. A test file:

  version: "1"
  rules: [../agent.yaml]         # files and directories, seen from this file
  agent: claude                  # agent.name, where a case names none
  cases:
    - name: clone over https     # optional
      event: https://github.com/
      verdict: allow
      rule: allow-github         # optional; "default policy" where none matches
    - event: {layer: request, http.host: api.test, http.method: DELETE}
      verdict: deny

An event is a target as explain takes it (with exe, ip and via: direct or proxy
beside it; the verdict is allow, deny or depends), or a layer (dns, flow, hello,
connect, request, raw, run) with fields that it knows (the verdict is allow,
provisional, open or deny). Keep test files in a directory of their own: a
directory of rule files holds nothing else.`
	rules = c.Flags().StringArrayP("rules", "r", nil, "rule file or directory at `PATH`, instead of those that the files name (repeatable)")
	asJSON = jsonFlag(c)
	return c
}
