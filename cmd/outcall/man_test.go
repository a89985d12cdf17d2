package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"outcall/shim"
)

// manPage writes one command as a page of section 1 (man(7) macros). The
// usual way through markdown loses what it takes for links and tags, such as
// [:PORT] and <name>.
func manPage(c *cobra.Command) []byte {
	var b bytes.Buffer
	name := strings.ReplaceAll(c.CommandPath(), " ", "-")
	fmt.Fprintf(&b, ".TH %s 1 \"\" outcall\n.SH NAME\n%s \\- %s\n", roff(strings.ToUpper(name)), roff(name), roff(c.Short))
	use := c.UseLine()
	if c.Annotations["group"] != "" {
		use = c.CommandPath() + " COMMAND"
	}
	fmt.Fprintf(&b, ".SH SYNOPSIS\n%s\n", roff(use))
	if c.Long != "" {
		fmt.Fprintf(&b, ".SH DESCRIPTION\n%s\n", roff(c.Long))
	}
	flags(&b, "OPTIONS", c.NonInheritedFlags())
	flags(&b, "SESSION", c.InheritedFlags())
	var children []string
	for _, child := range c.Commands() {
		if child.IsAvailableCommand() {
			children = append(children, fmt.Sprintf(".TP\n.B %s\n%s\n", roff(child.Name()), roff(child.Short)))
		}
	}
	if len(children) > 0 {
		b.WriteString(".SH COMMANDS\n" + strings.Join(children, ""))
	}
	if c.Example != "" {
		fmt.Fprintf(&b, ".SH EXAMPLES\n.nf\n%s\n.fi\n", roff(c.Example))
	}
	if c.HasParent() {
		fmt.Fprintf(&b, ".SH SEE ALSO\n.BR %s (1)\n", roff(strings.ReplaceAll(c.Parent().CommandPath(), " ", "-")))
	}
	return b.Bytes()
}

// agentPage is the page of the program inside the sandbox: what it says
// itself when it is asked for help.
func agentPage() []byte {
	var help bytes.Buffer
	shim.Main(context.Background(), shim.Caller{Args: []string{"--help"}, Stdout: &help, Stderr: &help})
	synopsis, rest, _ := strings.Cut(strings.TrimPrefix(help.String(), "Usage:\n"), "\n\n")
	var b bytes.Buffer
	b.WriteString(".TH OUTCALL\\-AGENT 1 \"\" outcall\n.SH NAME\noutcall\\-agent \\- ask the outcall session for a verdict, from inside\n")
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.nf\n%s\n.fi\n", roff(synopsis))
	fmt.Fprintf(&b, ".SH DESCRIPTION\n%s\n.PP\n%s\n", roff(agentText), roff(rest))
	b.WriteString(".SH SEE ALSO\n.BR outcall (1)\n")
	return b.Bytes()
}

const agentText = `For programs in a sandbox that want to know before they try. It is a courtesy
to a willing agent and enforces nothing: what leaves the sandbox is decided on
the wire, whoever asked.`

func flags(b *bytes.Buffer, title string, fs *pflag.FlagSet) {
	if !fs.HasAvailableFlags() {
		return
	}
	fmt.Fprintf(b, ".SH %s\n", title)
	fs.SortFlags = false
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		head := `\fB` + roff("--"+f.Name) + `\fR`
		if f.Shorthand != "" {
			head = `\fB` + roff("-"+f.Shorthand) + `\fR, ` + head
		}
		if f.Value.Type() != "bool" {
			head += ` \fI` + roff(value) + `\fR`
			if d := f.DefValue; d != "" && d != "[]" && d != "0s" {
				usage += " (default " + d + ")"
			}
		}
		fmt.Fprintf(b, ".TP\n%s\n%s\n", head, roff(usage))
	})
}

// roff writes text so that nothing in it is taken for a request or an escape;
// empty lines become paragraphs.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	lines := strings.Split(strings.Trim(s, "\n"), "\n")
	for i, l := range lines {
		switch {
		case l == "":
			lines[i] = ".PP"
		case l[0] == '.' || l[0] == '\'':
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
