package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"outcall/policy/escape"
	"outcall/policy/preset"
	"outcall/sandbox/hostapi"
)

func (a *app) rulesCommand() *cobra.Command {
	return a.group("rules", "the rules of a session, and rule files",
		a.rulesListCommand(), a.rulesShowCommand(), a.rulesCountersCommand(), a.rulesActiveCommand(),
		a.rulesFlushCommand(), a.rulesReloadCommand(), a.rulesCheckCommand(),
		a.rulesTestCommand(), a.rulesDiffCommand(), a.rulesFmtCommand(), a.rulesSchemaCommand())
}

func (a *app) rulesListCommand() *cobra.Command {
	var asJSON *bool
	c := a.ask("list [--json]", "the loaded rules, in the order in which they are asked", none,
		func(ctx context.Context, c *hostapi.Client, _ []string) error {
			rules, err := c.Rules(ctx)
			if err != nil {
				return err
			}
			return a.print(*asJSON, rules, func(w io.Writer) {
				row(w, "ID", "ACTION", "PRIORITY", "FROM", "CONDITION")
				for _, r := range rules {
					row(w, r.ID, r.Action, r.Priority, place(r), r.ConditionPreview)
				}
			})
		})
	asJSON = jsonFlag(c)
	return c
}

func place(r hostapi.Rule) string {
	if r.Line == 0 {
		return r.File
	}
	return fmt.Sprintf("%s:%d", r.File, r.Line)
}

func (a *app) rulesShowCommand() *cobra.Command {
	var asJSON *bool
	c := a.cmd("show ID|preset:NAME [--json]", "one rule in full, or the rule file of a preset", exactly("ID"),
		func(ctx context.Context, args []string) error {
			if name, ok := strings.CutPrefix(args[0], preset.Prefix); ok {
				return a.showPreset(name, *asJSON)
			}
			c, err := a.client(ctx, "")
			if err != nil {
				return err
			}
			r, err := c.Rule(ctx, args[0])
			if err != nil {
				return err
			}
			return a.print(*asJSON, r, func(w io.Writer) {
				row(w, "ID:", r.ID)
				row(w, "Action:", r.Action)
				row(w, "Priority:", r.Priority)
				row(w, "From:", place(r.Rule)+" ("+r.Origin+")")
				if r.Description != "" {
					row(w, "Description:", r.Description)
				}
				if r.Action == "allow" {
					row(w, "Egress:", egressText(r))
				}
				row(w, "Log:", yesNo(r.Log, "yes", "no"))
				row(w, "Condition:", strings.TrimSpace(r.Condition))
			})
		})
	asJSON = jsonFlag(c)
	return c
}

func egressText(r hostapi.RuleDetail) string {
	ports := "any port"
	if len(r.Ports) > 0 {
		ports = "ports " + strings.Trim(fmt.Sprint(r.Ports), "[]")
	}
	return r.Mode + ", " + ports + yesNo(r.AllowPrivate, ", private addresses", "")
}

func (a *app) rulesCountersCommand() *cobra.Command {
	var asJSON *bool
	c := a.ask("counters [--json]", "what each rule has decided so far", none,
		func(ctx context.Context, c *hostapi.Client, _ []string) error {
			k, err := c.Counters(ctx)
			if err != nil {
				return err
			}
			return a.print(*asJSON, k, func(w io.Writer) {
				row(w, "ID", "ACTION", "VERDICTS", "FAILED", "PACKETS", "BYTES")
				for _, r := range append(k.Rules, k.Default) {
					row(w, r.ID, r.Action, r.Verdicts, r.Failed, r.Packets, r.Bytes)
				}
				row(w, "NXDOMAIN", "", k.NXDomain)
			})
		})
	asJSON = jsonFlag(c)
	return c
}

func (a *app) rulesActiveCommand() *cobra.Command {
	var asJSON *bool
	c := a.ask("active [--json]", "the addresses and ports that the kernel passes now", none,
		func(ctx context.Context, c *hostapi.Client, _ []string) error {
			list, err := c.Active(ctx)
			if err != nil {
				return err
			}
			return a.print(*asJSON, list, func(w io.Writer) {
				row(w, "DESTINATION", "PROTO", "PORT", "NAME", "RULE", "EXPIRES")
				for _, e := range list {
					port := fmt.Sprint(e.Port)
					if e.PortHigh != 0 {
						port = fmt.Sprintf("%d-%d", e.Port, e.PortHigh)
					}
					expires := ""
					if e.Name != "" {
						expires = fmt.Sprintf("%ds", e.ExpiresInSecs)
					}
					row(w, e.Destination, e.Protocol, port, e.Name, e.Rule, expires)
				}
			})
		})
	asJSON = jsonFlag(c)
	return c
}

func (a *app) rulesFlushCommand() *cobra.Command {
	return a.ask("flush", "forget every pinned address; names must be resolved again", none,
		func(ctx context.Context, c *hostapi.Client, _ []string) error {
			f, err := c.FlushActive(ctx)
			if err != nil {
				return err
			}
			return a.print(false, nil, func(w io.Writer) { row(w, "Removed:", f.Removed) })
		})
}

func (a *app) rulesReloadCommand() *cobra.Command {
	var asJSON, dryRun *bool
	c := a.ask("reload [--dry-run] [--json]", "read the rule files anew; one error and the old set stays", none,
		func(ctx context.Context, c *hostapi.Client, _ []string) error {
			r, err := c.Reload(ctx, *dryRun)
			if err != nil {
				return err
			}
			return a.print(*asJSON, r, func(w io.Writer) { loadedText(w, r.FilesLoaded, r.RulesLoaded, r.Warnings) })
		})
	dryRun = c.Flags().Bool("dry-run", false, "only check")
	asJSON = jsonFlag(c)
	return c
}

func loadedText(w io.Writer, files, rules int, warnings []string) {
	for _, t := range warnings {
		io.WriteString(w, "warning: "+escape.Text(t)+"\n")
	}
	io.WriteString(w, fmt.Sprintf("%d files, %d rules\n", files, rules))
}
