package main

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"outcall/sandbox/hostapi"
)

func (a *app) dnsCommand() *cobra.Command {
	flush := a.ask("flush", "empty the cache", none,
		func(ctx context.Context, c *hostapi.Client, _ []string) error {
			f, err := c.DNSFlush(ctx)
			if err != nil {
				return err
			}
			return a.print(false, nil, func(w io.Writer) { row(w, "Flushed:", f.Removed) })
		})
	return a.group("dns", "the session's DNS filter", a.dnsStatusCommand(), a.dnsTestCommand(), a.dnsCacheCommand(), flush, a.dnsPrewarmCommand())
}

func (a *app) dnsStatusCommand() *cobra.Command {
	var asJSON *bool
	c := a.ask("status [--json]", "the filter's listeners, resolvers and numbers", none,
		func(ctx context.Context, c *hostapi.Client, _ []string) error {
			d, err := c.DNS(ctx)
			if err != nil {
				return err
			}
			return a.print(*asJSON, d, func(w io.Writer) {
				row(w, "DNS filter:", yesNo(d.Running, "running", "stopped"))
				row(w, "Address:", d.ListenAddress)
				if d.ListenAddress6 != "" {
					row(w, "Address:", d.ListenAddress6)
				}
				row(w, "Port:", d.ListenPort)
				row(w, "Resolvers:", strings.Join(d.Upstreams, ", "))
				row(w, "Cached:", d.CacheEntries)
				row(w, "Questions:", d.QueriesTotal)
				row(w, "Allowed:", d.QueriesAllowed)
				row(w, "Blocked:", d.QueriesBlocked)
				io.WriteString(w, "The listeners belong to outcall's own network stack: ss in the gateway shows no socket.\n")
			})
		})
	asJSON = jsonFlag(c)
	return c
}

func (a *app) dnsTestCommand() *cobra.Command {
	var asJSON *bool
	var typ string
	c := a.ask("test HOST [--type T] [--json]", "ask as the command would, and say what decided", exactly("HOST"),
		func(ctx context.Context, c *hostapi.Client, args []string) error {
			t, err := c.DNSTest(ctx, hostapi.DNSTestRequest{Name: args[0], Type: strings.ToUpper(typ)})
			if err != nil {
				return err
			}
			if err := a.print(*asJSON, t, func(w io.Writer) { dnsTestText(w, t) }); err != nil {
				return err
			}
			if t.Rcode != "NOERROR" {
				return &codeError{exitError, nil}
			}
			return nil
		})
	asJSON = jsonFlag(c)
	c.Flags().StringVar(&typ, "type", "A", "record type `T`")
	return c
}

func dnsTestText(w io.Writer, t hostapi.DNSTest) {
	row(w, "Question:", t.Name+" "+t.Type)
	row(w, "Verdict:", t.Verdict)
	row(w, "Rule:", t.Rule)
	if t.Reason != "" {
		row(w, "Reason:", t.Reason)
	}
	row(w, "Answer:", t.Rcode)
	for _, r := range t.Answers {
		row(w, "", strings.Join(strings.Fields(r), " "))
	}
	for _, r := range t.Removed {
		row(w, "Removed:", strings.Join(strings.Fields(r), " "))
	}
}

func (a *app) dnsCacheCommand() *cobra.Command {
	var asJSON, entries *bool
	c := a.ask("cache [--entries] [--json]", "the cache's numbers, with --entries its content", none,
		func(ctx context.Context, c *hostapi.Client, _ []string) error {
			d, err := c.DNSCache(ctx, *entries)
			if err != nil {
				return err
			}
			return a.print(*asJSON, d, func(w io.Writer) {
				row(w, "Entries:", d.Stats.Entries)
				row(w, "Limit:", d.Stats.MaxEntries)
				row(w, "Hits:", d.Stats.Hits)
				row(w, "Misses:", d.Stats.Misses)
				row(w, "Evictions:", d.Stats.Evictions)
				for _, e := range d.Entries {
					row(w, e.Hostname, e.RecordType, e.TTLRemainingSecs)
				}
			})
		})
	entries = c.Flags().Bool("entries", false, "list the entries")
	asJSON = jsonFlag(c)
	return c
}

func (a *app) dnsPrewarmCommand() *cobra.Command {
	return a.ask("prewarm HOST...", "resolve names into the cache before the command asks", atLeast("HOST"),
		func(ctx context.Context, c *hostapi.Client, args []string) error {
			var failed error
			for _, name := range args {
				for _, typ := range []string{"A", "AAAA"} {
					t, err := c.DNSTest(ctx, hostapi.DNSTestRequest{Name: name, Type: typ, Keep: true})
					if err != nil {
						return err
					}
					if err := a.print(false, nil, func(w io.Writer) { row(w, t.Name, t.Type, t.Rcode, len(t.Answers)) }); err != nil {
						return err
					}
					if t.Rcode != "NOERROR" {
						failed = errors.New("not every name could be resolved")
					}
				}
			}
			return failed
		})
}
