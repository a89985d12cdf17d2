package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"outcall/policy/review"
	"outcall/sandbox/hostapi"
	"outcall/sandbox/requests"
)

func (a *app) requestsCommand() *cobra.Command {
	c := a.group("requests", "rules that the command asks for",
		a.requestsListCommand(), a.requestsShowCommand(), a.requestsApproveCommand(),
		a.requestsRejectCommand(), a.requestsRevokeCommand())
	c.Long = `A command can propose a rule file (outcall-agent request FILE). It waits here for
the operator and is in force only when it has been approved, after all block
rules of the operator, whatever its priority says.

Requests belong to the working directory that the session was started in. They
outlive the session: what waits is shown by the next one there, and what was
approved for good is loaded by each, beside --rules, too, until it is revoked.`
	return c
}

func (a *app) requestsListCommand() *cobra.Command {
	var asJSON, all *bool
	c := a.ask("list [--all] [--json]", "the requests that wait or are approved", none,
		func(ctx context.Context, c *hostapi.Client, _ []string) error {
			list, err := c.Requests(ctx, true)
			if err != nil {
				return err
			}
			shown := []hostapi.RuleRequest{}
			for _, r := range list {
				if *all || r.Status == requests.Pending || r.Status == requests.Approved {
					shown = append(shown, r)
				}
			}
			if len(shown) == 0 && !*asJSON {
				return a.print(false, nil, func(w io.Writer) { row(w, "No pending rule requests.") })
			}
			return a.print(*asJSON, shown, func(w io.Writer) {
				row(w, "ID", "SESSION", "STATUS", "SUBMITTED", "NOTE")
				for _, r := range shown {
					row(w, r.ID, r.Session, r.Status, r.Submitted.Format(time.RFC3339), requestNote(r))
				}
			})
		})
	all = c.Flags().Bool("all", false, "also those that were rejected or have expired")
	asJSON = jsonFlag(c)
	return c
}

// requestNote is what there is to say of a request beside its status.
func requestNote(r hostapi.RuleRequest) string {
	switch {
	case r.Problem != "":
		return "not in force: " + r.Problem
	case r.Expires != nil && r.Status == requests.Approved:
		return "until " + r.Expires.Format(time.RFC3339)
	}
	return r.Reason
}

// requestText is a request as show --json prints it.
type requestText struct {
	hostapi.RuleRequest
	Review *review.Review `json:"review,omitempty"`
}

func (a *app) requestsShowCommand() *cobra.Command {
	var asJSON *bool
	c := a.ask("show ID [--json]", "what a request would add, which denials it would allow, and what else it opens", exactly("ID"),
		func(ctx context.Context, c *hostapi.Client, args []string) error {
			var rv *review.Review
			r, err := c.Request(ctx, args[0], &rv)
			if err != nil {
				return err
			}
			if *asJSON {
				return a.print(true, requestText{r, rv}, nil)
			}
			return a.written(writeRequest(a.io.out, r, rv))
		})
	c.Long = `Prints the rule file line by line as it would be added, each name with its
registrable domain in brackets, which of the session's latest denials it would
allow, what else it opens beyond the rules in force, and the SHA-256 of the file:
approve sends it back, so that nothing else is approved than what was shown.`
	asJSON = jsonFlag(c)
	c.ValidArgsFunction = a.requestIDs
	return c
}

// writeRequest is what an operator decides by.
func writeRequest(w io.Writer, r hostapi.RuleRequest, rv *review.Review) error {
	var b strings.Builder
	line := func(cells ...any) { row(&b, cells...) }
	line("request " + r.ID + " · " + r.Status + " · from session " + r.Session + " · " + r.Submitted.Format(time.RFC3339))
	if note := requestNote(r); note != "" {
		line(note)
	}
	if r.File != "" {
		if err := review.WriteDiff(&b, r.File); err != nil {
			return err
		}
	}
	if rv != nil {
		if err := rv.WriteText(&b); err != nil {
			return err
		}
	}
	line("sha256 " + r.SHA256)
	_, err := io.WriteString(w, b.String())
	return err
}

// approveFlags say how far an approval goes and what it rests on.
type approveFlags struct {
	howLong time.Duration
	yes     *bool
	sha256  string
}

func (a *app) requestsApproveCommand() *cobra.Command {
	var f approveFlags
	var c *cobra.Command
	c = a.cmd("approve ID [--for DURATION] [--yes | --sha256 HASH]", "put a request in force, for a time or for good", exactly("ID"),
		func(ctx context.Context, args []string) error {
			if c.Flags().Changed("for") && f.howLong < time.Second {
				return usagef("--for %v: want at least 1s", f.howLong)
			}
			client, err := a.client(ctx, "")
			if err != nil {
				return err
			}
			return a.approve(ctx, client, args[0], &f)
		})
	c.Long = `Shows the request as show does and asks. Where standard input is no terminal it
must be told not to ask: by --yes, or by --sha256 with the hash that show has
printed, which approves that very text and no other.

With --for the rules are gone when the time is up, and flows that stood on them
are closed. Without it they are loaded by every later session of the same
working directory; requests revoke takes them back.`
	c.Example = `  outcall requests approve rr-0123456789ab --for 10m`
	fs := c.Flags()
	fs.DurationVar(&f.howLong, "for", 0, "approve for `DURATION`, such as 10m (default: for good)")
	f.yes = fs.BoolP("yes", "y", false, "do not ask")
	fs.StringVar(&f.sha256, "sha256", "", "do not ask, and approve only the rule file of this `HASH`")
	c.ValidArgsFunction = a.requestIDs
	return c
}

func (a *app) approve(ctx context.Context, c *hostapi.Client, id string, f *approveFlags) error {
	hash := strings.ToLower(f.sha256)
	if hash == "" {
		if !*f.yes && !a.interactive() {
			return usagef("standard input is no terminal, so nobody can be asked: give --yes, or --sha256 HASH of what `outcall requests show` has printed")
		}
		var rv *review.Review
		r, err := c.Request(ctx, id, &rv)
		if err != nil {
			return err
		}
		if r.Status == requests.Pending && !*f.yes {
			if err := a.written(writeRequest(a.io.out, r, rv)); err != nil {
				return err
			}
			if !a.confirmed("Approve " + howLong(f.howLong) + "?") {
				return errors.New("not approved: the request still waits (outcall requests reject ends it)")
			}
		}
		hash = r.SHA256
	}
	in := hostapi.Approval{SHA256: hash}
	if f.howLong > 0 {
		in.For = f.howLong.String()
	}
	out, err := c.Approve(ctx, id, in)
	if err != nil {
		return err
	}
	for _, w := range out.Warnings {
		a.say("warning", w)
	}
	return a.print(false, nil, func(w io.Writer) {
		row(w, fmt.Sprintf("Rule request %q approved %s; %d rule(s) loaded.", out.ID, howLong(f.howLong), out.RulesLoaded))
	})
}

func howLong(d time.Duration) string {
	if d == 0 {
		return "for good"
	}
	return "for " + d.String()
}

// interactive reports that somebody can be asked.
func (a *app) interactive() bool {
	in, ok := a.io.in.(*os.File)
	return ok && term.IsTerminal(int(in.Fd()))
}

// confirmed asks; only a yes is one.
func (a *app) confirmed(question string) bool {
	io.WriteString(a.io.err, question+" [y/N] ")
	line, err := bufio.NewReader(io.LimitReader(a.io.in, 64)).ReadString('\n')
	if err != nil {
		io.WriteString(a.io.err, "\n")
		return false
	}
	word := strings.ToLower(strings.TrimSpace(line))
	return word == "y" || word == "yes"
}

func (a *app) requestsRejectCommand() *cobra.Command {
	var reason string
	c := a.ask("reject ID --reason TEXT", "end a request that waits; the command is told the reason", exactly("ID"),
		func(ctx context.Context, c *hostapi.Client, args []string) error {
			if err := requests.CheckReason(reason); err != nil {
				return usagef("--reason: %w", err)
			}
			if err := c.Reject(ctx, args[0], reason); err != nil {
				return err
			}
			return a.print(false, nil, func(w io.Writer) { row(w, fmt.Sprintf("Rule request %q rejected.", args[0])) })
		})
	c.Flags().StringVar(&reason, "reason", "", "`TEXT` of one line, at most 1024 bytes")
	c.ValidArgsFunction = a.requestIDs
	return c
}

func (a *app) requestsRevokeCommand() *cobra.Command {
	reason := "the approval was taken back"
	c := a.ask("revoke ID [--reason TEXT]", "take an approval back; flows that stood on it are closed", exactly("ID"),
		func(ctx context.Context, c *hostapi.Client, args []string) error {
			if err := requests.CheckReason(reason); err != nil {
				return usagef("--reason: %w", err)
			}
			out, err := c.Revoke(ctx, args[0], reason)
			if err != nil {
				return err
			}
			return a.print(false, nil, func(w io.Writer) {
				row(w, fmt.Sprintf("Rule request %q revoked; %d flow(s) closed.", out.ID, out.FlowsClosed))
			})
		})
	c.Flags().StringVar(&reason, "reason", reason, "`TEXT` of one line, at most 1024 bytes")
	c.ValidArgsFunction = a.requestIDs
	return c
}

// requestIDs completes the id of a request.
func (a *app) requestIDs(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	client, err := a.client(c.Context(), "")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, err := client.Requests(c.Context(), true)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var ids []string
	for _, r := range list {
		if r.Status == requests.Pending || r.Status == requests.Approved {
			ids = append(ids, r.ID+"\t"+r.Status)
		}
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
