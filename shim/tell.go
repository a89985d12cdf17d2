package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"outcall/policy/escape"
	"outcall/shim/ask"
)

// maxFile bounds a rule file that is proposed: what the API takes.
const maxFile = 64 << 10

// print writes one line to standard output; texts in it came over the socket.
func (c *Caller) print(format string, args ...any) {
	fmt.Fprintln(c.Stdout, escape.Text(fmt.Sprintf(format, args...)))
}

// block writes a text of several lines.
func (c *Caller) block(text string) {
	fmt.Fprintln(c.Stdout, strings.TrimRight(escape.Block(text), "\n"))
}

// noAnswer tells why there is none. What the API refuses for its content
// (422, 404) is an answer, and exit code 1.
func (c *Caller) noAnswer(err error) int {
	if r, ok := errors.AsType[*ask.Refusal](err); ok && (r.Status == 422 || r.Status == 404) {
		c.say("%s", r.Text)
		return exitDenied
	}
	c.say("no answer: %v", err)
	return exitNoVerdict
}

// why explains one denial; id "" is the latest.
func (c *Caller) why(id string) action {
	return func(ctx context.Context, client ask.Client) int {
		var d ask.Denial
		var ok bool
		var err error
		if id != "" {
			d, ok, err = client.Denial(ctx, id)
		} else {
			var list []ask.Denial
			if list, err = client.Denials(ctx); len(list) > 0 {
				d, ok = list[len(list)-1], true
			}
		}
		switch {
		case err != nil:
			return c.noAnswer(err)
		case !ok && id == "":
			c.print("nothing was denied yet")
			return exitAllowed
		case !ok:
			c.say("%s: no such denial among the session's latest", id)
			return exitDenied
		}
		c.print("%s  %s  %s  %s", d.ID, d.Time.Local().Format("15:04:05"), d.Layer, d.Target)
		c.print("denied by %s: %s", d.Rule, d.Reason)
		switch {
		case d.Smallest == "" && d.Advice != "":
			c.print("%s", d.Advice) // why no rule would
		case d.Smallest != "":
			c.print("the operator can allow it by %s", d.Advice)
			c.print("the smallest rule file that would allow it; outcall-agent request FILE proposes it to the operator:")
			c.block("\n" + d.Smallest)
		}
		return exitAllowed
	}
}

// request proposes a rule file.
func (c *Caller) request(name string) action {
	return func(ctx context.Context, client ask.Client) int {
		text, err := c.read(name)
		if err != nil {
			c.say("%v", err)
			return exitDenied
		}
		r, err := client.Propose(ctx, text)
		if err != nil {
			return c.noAnswer(err)
		}
		c.print("%s", r.ID)
		c.say("%s is %s: the operator decides; outcall-agent status %s tells how it stands", r.ID, r.Status, r.ID)
		return exitAllowed
	}
}

func (c *Caller) read(name string) (string, error) {
	in := c.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("%s: %w", name, plain(err))
	case len(b) > maxFile:
		return "", fmt.Errorf("%s: more than %d bytes", name, maxFile)
	}
	return string(b), nil
}

// status tells about the session, or about one proposal.
func (c *Caller) status(id string) action {
	return func(ctx context.Context, client ask.Client) int {
		if id != "" {
			r, err := client.Request(ctx, id)
			if err != nil {
				return c.noAnswer(err)
			}
			reason := ""
			if r.Reason != nil {
				reason = ": " + *r.Reason
			}
			c.print("%s %s%s", r.ID, r.Status, reason)
			return exitAllowed
		}
		name, err := client.Session(ctx)
		if err != nil {
			return c.noAnswer(err)
		}
		list, err := client.Denials(ctx)
		if err != nil {
			return c.noAnswer(err)
		}
		c.print("session %s: reachable at %s", name, client.Socket)
		for _, d := range list {
			c.print("%s  %s  %s  %s  denied by %s: %s", d.ID, d.Time.Local().Format("15:04:05"), d.Layer, d.Target, d.Rule, d.Reason)
		}
		if len(list) > 0 {
			c.print("outcall-agent why ID explains one of them")
		}
		return exitAllowed
	}
}

// policy prints what is reachable, as it is now.
func (c *Caller) policy(ctx context.Context, client ask.Client) int {
	text, err := client.Policy(ctx)
	if err != nil {
		return c.noAnswer(err)
	}
	c.block(text)
	return exitAllowed
}
