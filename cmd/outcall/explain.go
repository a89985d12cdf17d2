package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"outcall/policy"
	"outcall/policy/escape"
	"outcall/sandbox"
	"outcall/sandbox/hostapi"
)

// explainFlags are the facts that the user gives.
type explainFlags struct {
	rules, allow   []string
	ip, exe, agent string
	asJSON         *bool
}

func (a *app) explainCommand() *cobra.Command {
	var f explainFlags
	c := a.cmd("explain TARGET [--rules PATH] [--allow TARGET] [--ip IP] [--exe PATH] [--agent NAME] [--json]",
		"say step by step what would decide about a target", exactly("TARGET"),
		func(ctx context.Context, args []string) error {
			x, err := a.explain(ctx, &f, args[0])
			if err != nil {
				return err
			}
			return a.print(*f.asJSON, x, func(w io.Writer) { io.WriteString(w, escape.Block(x.String())) })
		})
	c.Long = `Says what the rules would decide about TARGET, step by step, with the function
that the data path uses: https://host/path, http://host/path, host:port,
tcp://host:port, udp://host:port, icmp://host or dns://name?type=A.

With --rules or --allow no session is needed. What is not given (address,
program, agent) is tried both ways, and the answer says on what it depends.`
	fs := c.Flags()
	fs.StringArrayVarP(&f.rules, "rules", "r", nil, "rule file or directory at `PATH` (repeatable)")
	fs.StringArrayVarP(&f.allow, "allow", "a", nil, "allow `TARGET`, as for run (repeatable)")
	fs.StringVar(&f.ip, "ip", "", "`IP` that the name has")
	fs.StringVar(&f.exe, "exe", "", "`PATH` of the program that asks")
	fs.StringVar(&f.agent, "agent", "", "`NAME` of the agent")
	f.asJSON = jsonFlag(c)
	return c
}

func (a *app) explain(ctx context.Context, f *explainFlags, target string) (*policy.Explanation, error) {
	if f.ip != "" {
		if _, err := netip.ParseAddr(f.ip); err != nil {
			return nil, usagef("--ip %q is no address", f.ip)
		}
	}
	if len(f.rules) > 0 || len(f.allow) > 0 {
		return a.explainLocal(ctx, f, target)
	}
	c, err := a.client(ctx, "")
	if err != nil {
		return nil, err
	}
	raw, err := c.Explain(ctx, hostapi.ExplainRequest{Target: target, IP: f.ip, Exe: f.exe, Agent: f.agent})
	if err != nil {
		return nil, err
	}
	x := new(policy.Explanation)
	if err := json.Unmarshal(raw, x); err != nil {
		return nil, fmt.Errorf("explain: malformed answer: %w", err)
	}
	return x, nil
}

// explainLocal explains rules that no session has loaded. Names are resolved
// by the host's own resolver, which the explanation says nothing about, and
// whether datagrams can go out is tried here.
func (a *app) explainLocal(ctx context.Context, f *explainFlags, target string) (*policy.Explanation, error) {
	if len(f.allow) > 0 {
		if _, err := policy.AllowTargets(f.allow); err != nil {
			return nil, &usageError{err}
		}
	}
	// Without --rules only --allow counts: the user asks about that alone.
	opened, err := policy.Places{Rules: f.rules, Allow: f.allow}.Open()
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	src, _, err := opened.Read()
	if err != nil {
		return nil, err
	}
	snap, err := policy.Load(src)
	if err != nil {
		return nil, err
	}
	q := policy.ExplainQuery{Target: target, Who: policy.Who{Agent: f.agent}, Exe: f.exe}
	if q.CannotGoOut, err = sandbox.CannotGoOut(os.Environ()); err != nil {
		return nil, err
	}
	if f.ip != "" {
		q.IP = netip.MustParseAddr(f.ip) // checked by explain
	}
	q.Resolve = func(name string) ([]netip.Addr, error) {
		return (&net.Resolver{PreferGo: true}).LookupNetIP(ctx, "ip", name)
	}
	x, err := snap.Explain(q)
	if err != nil {
		return nil, &usageError{err}
	}
	return x, nil
}
