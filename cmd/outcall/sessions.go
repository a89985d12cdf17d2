package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"outcall/policy/escape"
	"outcall/sandbox/hostapi"
	"outcall/sandbox/session"
)

func (a *app) psCommand() *cobra.Command {
	var asJSON *bool
	c := a.cmd("ps [--json]", "list the running sessions", none, func(ctx context.Context, _ []string) error {
		live, err := session.List(ctx, a.env)
		if err != nil && live == nil {
			return err
		}
		if err != nil { // a stale directory that cannot be removed
			a.say("note", err.Error())
		}
		if live == nil {
			live = []session.Info{}
		}
		return a.print(*asJSON, live, func(w io.Writer) {
			row(w, "NAME", "PID", "STARTED", "PUBLISHED", "COMMAND")
			for _, i := range live {
				var ports []string
				for _, p := range i.Published {
					ports = append(ports, p.String())
				}
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\n", escape.Text(i.Name), i.PID, i.Started.Local().Format(time.DateTime),
					escape.Text(strings.Join(ports, ",")), escape.Join(i.Command))
			}
		})
	})
	asJSON = jsonFlag(c)
	return c
}

func (a *app) stopCommand() *cobra.Command {
	return a.cmd("stop NAME", "end a session: its command gets SIGTERM, then SIGKILL", atMostOne,
		func(ctx context.Context, args []string) error {
			if len(args) == 0 && a.session == "" && a.socket == "" {
				return usagef("stop wants the NAME of a session")
			}
			c, err := a.client(ctx, one(args))
			if err != nil {
				return err
			}
			return c.Stop(ctx)
		})
}

// one is the first argument, if any.
func one(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func (a *app) proxyCommand() *cobra.Command {
	var asJSON *bool
	status := a.ask("status [--json]", "the HTTP proxy's address and numbers", none,
		func(ctx context.Context, c *hostapi.Client, _ []string) error {
			p, err := c.Proxy(ctx)
			if err != nil {
				return err
			}
			return a.print(*asJSON, p, func(w io.Writer) {
				row(w, "Proxy:", yesNo(p.Running, "running", "off"))
				if !p.Running {
					return
				}
				row(w, "Address:", p.ListenAddress)
				row(w, "URL:", p.ProxyURL)
				row(w, "Connections:", p.ActiveConnections)
				row(w, "Requests:", p.TotalRequests)
				row(w, "Blocked:", p.TotalBlocked)
			})
		})
	asJSON = jsonFlag(status)
	return a.group("proxy", "the session's HTTP proxy", status)
}

func (a *app) flowsCommand() *cobra.Command {
	var asJSON *bool
	list := a.ask("list [--json]", "list the live flows", none,
		func(ctx context.Context, c *hostapi.Client, _ []string) error {
			flows, err := c.Flows(ctx)
			if err != nil {
				return err
			}
			return a.print(*asJSON, flows, func(w io.Writer) {
				row(w, "ID", "PROTO", "DESTINATION", "NAME", "RULE", "IN", "OUT", "AGE", "PROCESS")
				for _, f := range flows {
					row(w, f.ID, f.Protocol, f.Destination, f.Name, f.Rule, f.BytesIn, f.BytesOut,
						time.Since(f.Started).Round(time.Second), f.Process)
				}
			})
		})
	asJSON = jsonFlag(list)
	kill := a.ask("kill ID", "close one flow", exactly("ID"),
		func(ctx context.Context, c *hostapi.Client, args []string) error { return c.KillFlow(ctx, args[0]) })
	return a.group("flows", "the live flows of a session", list, kill)
}
