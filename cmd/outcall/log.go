package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"outcall/policy"
	"outcall/policy/escape"
	"outcall/sandbox/audit"
	"outcall/sandbox/hostapi"
	"outcall/sandbox/session"
)

// logFlags choose what of an audit is printed, and how.
type logFlags struct{ follow, asJSON, denied bool }

func (a *app) logCommand() *cobra.Command {
	var f logFlags
	c := a.cmd("log [NAME] [-f] [--json] [--denied]", "the audit of a session, running or ended", atMostOne,
		func(ctx context.Context, args []string) error { return a.log(ctx, f, one(args)) })
	fs := c.Flags()
	fs.BoolVarP(&f.follow, "follow", "f", false, "go on with each further line until the session ends")
	fs.BoolVar(&f.asJSON, "json", false, "print the lines as they are written")
	fs.BoolVar(&f.denied, "denied", false, "only denials")
	c.AddCommand(a.logVerifyCommand())
	return c
}

// log reads a running session through its socket, an ended one from its file.
func (a *app) log(ctx context.Context, f logFlags, name string) error {
	if name == "" {
		name = a.session
	}
	c, err := a.client(ctx, name)
	if pe, ok := errors.AsType[*session.PickError](err); ok && name != "" {
		if session.CheckName(name) != nil {
			return err
		}
		return a.logFile(f, pe, a.auditPaths(name))
	}
	if err != nil {
		return err
	}
	out := bufio.NewWriter(a.io.out)
	err = c.Events(ctx, f.follow, func(line []byte) error {
		if err := a.logLine(out, f, line); err != nil || !f.follow {
			return err
		}
		return a.written(out.Flush())
	})
	return errors.Join(err, a.written(out.Flush()))
}

// auditPaths are where the audit of an ended session can be.
func (a *app) auditPaths(name string) []string {
	paths := []string{filepath.Join(a.env.Root(), name, "audit.jsonl")}
	if p := a.env.AuditPath(name); p != "" {
		paths = append([]string{p}, paths...)
	}
	return paths
}

func (a *app) logFile(f logFlags, pick error, paths []string) error {
	if f.follow {
		return pick
	}
	for _, p := range paths {
		file, err := os.Open(p)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		defer file.Close()
		return a.logLines(f, file)
	}
	return fmt.Errorf("%w, and there is no %s", pick, strings.Join(paths, " or "))
}

func (a *app) logLines(f logFlags, r io.Reader) error {
	out := bufio.NewWriter(a.io.out)
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 64<<10), hostapi.MaxLine)
	for sc.Scan() {
		if err := a.logLine(out, f, sc.Bytes()); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("read the audit: %w", err)
	}
	return a.written(out.Flush())
}

// logLine prints one line of the audit. What is no event is printed as text:
// it is for the reader to judge, not for us to hide.
func (a *app) logLine(w io.Writer, f logFlags, line []byte) error {
	var e policy.Event
	bad := json.Unmarshal(line, &e) != nil
	if f.denied && (bad || e.Verdict != "deny" && e.Verdict != "would_deny") {
		return nil
	}
	text := ""
	switch {
	case f.asJSON:
		// JSON's own escapes keep control characters out; the rest is escaped
		// here, so that a foreign file does no harm either.
		text = escape.Text(string(line))
	case bad:
		text = "? " + escape.Text(string(line))
	default:
		text = audit.Text(e)
	}
	_, err := io.WriteString(w, text+"\n")
	return a.written(err)
}
