package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"outcall/policy"
	"outcall/policy/escape"
	"outcall/sandbox/gate"
	"outcall/sandbox/hostapi"
	"outcall/sandbox/session"
)

// What people read. An error is `outcall: error: what: on what: the kernel's
// answer`, lower case, one line for each finding; a hint says what to do and
// is only given where it is known. Both go to standard error, whatever comes
// from inside a sandbox escaped.

// finish prints what a command ended with and returns its exit code.
func (a *app) finish(err error) int {
	code := exitCode(err)
	if e, ok := errors.AsType[*codeError](err); ok && e.err == nil {
		return code
	}
	if err == nil {
		return code
	}
	if list, ok := errors.AsType[policy.ErrorList](err); ok {
		for _, e := range list {
			a.say("error", e.Error())
		}
	} else if e, ok := errors.AsType[*hostapi.UnreachableError](err); ok {
		// The line that scripts and pages look for, without our name before it.
		fmt.Fprintf(a.io.err, "error: %s\n", escape.Text(e.Error()))
	} else {
		a.say("error", err.Error())
	}
	if h := a.hint(err); h != "" {
		a.say("hint", h)
	}
	return code
}

// say prints `outcall: kind: text`; further lines are indented under it.
func (a *app) say(kind, text string) {
	text = strings.ReplaceAll(escape.Block(strings.TrimRight(text, "\n")), "\n", "\n  ")
	fmt.Fprintf(a.io.err, "outcall: %s: %s\n", kind, text)
}

// formerFlags are those that users know from the daemon that came before, and
// what answers them here.
var formerFlags = map[string]string{
	"--dns-port":   "none is needed: the DNS filter listens in the session's own network stack and takes no port of the host",
	"--proxy-addr": "outcall run --proxy-port N moves the proxy; it listens in the session's own network stack and takes no port of the host",
}

func (a *app) hint(err error) string {
	if e, ok := errors.AsType[*gate.StageError](err); ok && e.Hint != "" {
		return e.Hint
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		usage := fmt.Sprintf("%s --help tells the usage", a.command)
		for flag, text := range formerFlags {
			if strings.HasSuffix(err.Error(), "flag: "+flag) {
				return text + "; " + usage
			}
		}
		return usage
	}
	if _, ok := errors.AsType[*hostapi.UnreachableError](err); ok {
		return "`outcall ps` lists the running sessions; another one is named by --session NAME or --socket PATH"
	}
	if e, ok := errors.AsType[*session.LiveError](err); ok {
		return fmt.Sprintf("choose another --name, or end it: outcall stop %s", e.Info.Name)
	}
	if e, ok := errors.AsType[*session.PickError](err); ok && len(e.Names) == 0 {
		return "start one: outcall run --allow HOST -- COMMAND"
	}
	return ""
}

// print writes v as JSON, or calls text.
func (a *app) print(asJSON bool, v any, text func(w io.Writer)) error {
	if !asJSON {
		tw := tabwriter.NewWriter(a.io.out, 0, 0, 2, ' ', 0)
		text(tw)
		return a.written(tw.Flush())
	}
	enc := json.NewEncoder(a.io.out)
	enc.SetIndent("", "  ")
	return a.written(enc.Encode(v))
}

// written names a standard output that cannot be written: a script must not
// take half an answer for a whole one.
func (a *app) written(err error) error {
	if err != nil {
		return fmt.Errorf("write standard output: %w", err)
	}
	return nil
}

// row writes one table line, each cell escaped.
func row(w io.Writer, cells ...any) {
	for i, c := range cells {
		if i > 0 {
			io.WriteString(w, "\t")
		}
		io.WriteString(w, escape.Text(fmt.Sprint(c)))
	}
	io.WriteString(w, "\n")
}

func yesNo(b bool, yes, no string) string {
	if b {
		return yes
	}
	return no
}
