package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"outcall/policy/escape"
	"outcall/sandbox"
	"outcall/sandbox/probe"
)

func (a *app) doctorCommand() *cobra.Command {
	var asJSON *bool
	var inside bool
	c := a.cmd("doctor [--json]", "try each layer of a session on this machine, and say what is missing", none,
		func(ctx context.Context, _ []string) error {
			if inside {
				return probe.Inside(ctx, a.io.out)
			}
			return a.diagnose(ctx, *asJSON)
		})
	c.Long = `Makes trial sessions as run would, in the current directory and without rules,
and prints one line for each layer: its name, ok, weak (a session starts, with
less), missing (no session starts without it) or untried (something that is
missing comes before it), what this machine gave, and what to do.

The exit code is 0 if a session would start, else 1.`
	asJSON = jsonFlag(c)
	c.Flags().BoolVar(&inside, "inside", false, "look from the command's place")
	if err := c.Flags().MarkHidden("inside"); err != nil {
		panic(err) // the flag is the line above
	}
	return c
}

func (a *app) diagnose(ctx context.Context, asJSON bool) error {
	dir, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	r, err := sandbox.Diagnose(ctx, sandbox.Config{
		Command: []string{probe.Program, "doctor", "--inside"}, Dir: dir, Env: os.Environ(), Version: version,
		Subnet: netip.MustParsePrefix(defaultSubnet), Bridge: defaultBridge, ProxyPort: defaultProxyPort,
	})
	if err != nil {
		return err
	}
	if err := a.print(asJSON, r, func(w io.Writer) { doctorText(w, r) }); err != nil {
		return err
	}
	if !r.Starts {
		return &codeError{exitError, nil}
	}
	return nil
}

// mendIndent puts a mend under what was got.
const mendIndent = "         "

func doctorText(w io.Writer, r probe.Report) {
	width := 0
	for _, l := range r.Layers {
		width = max(width, len(l.Name))
	}
	for _, l := range r.Layers {
		fmt.Fprintf(w, "%-7s  %-*s  %s\n", l.Status, width, l.Name, escape.Text(l.Got))
		if l.Mend != "" {
			mend := escape.Block(strings.TrimRight(l.Mend, "\n"))
			io.WriteString(w, mendIndent+"mend: "+strings.ReplaceAll(mend, "\n", "\n"+mendIndent+"      ")+"\n")
		}
	}
	fmt.Fprintf(w, "\n%s\n", yesNo(r.Starts, "A session would start here.", "No session would start here."))
}
