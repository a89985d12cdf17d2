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

// log prints the audit of a session.
func (a *app) log(ctx context.Context, f logFlags, name string) error {
	out := bufio.NewWriter(a.io.out)
	err := a.auditLines(ctx, name, f.follow, func(line []byte) error {
		if err := a.logLine(out, f, line); err != nil || !f.follow {
			return err
		}
		return a.written(out.Flush())
	})
	return errors.Join(err, a.written(out.Flush()))
}

// auditLines reads a running session through its socket, an ended one from its
// file.
func (a *app) auditLines(ctx context.Context, name string, follow bool, do func(line []byte) error) error {
	if name == "" {
		name = a.session
	}
	c, err := a.client(ctx, name)
	if pe, ok := errors.AsType[*session.PickError](err); ok && name != "" && !follow {
		if session.CheckName(name) != nil {
			return err
		}
		return firstAudit(pe, a.auditPaths(name), do)
	}
	if err != nil {
		return err
	}
	return c.Events(ctx, follow, do)
}

// auditPaths are where the audit of an ended session can be.
func (a *app) auditPaths(name string) []string {
	paths := []string{filepath.Join(a.env.Root(), name, "audit.jsonl")}
	if p := a.env.AuditPath(name); p != "" {
		paths = append([]string{p}, paths...)
	}
	return paths
}

// firstAudit reads the first of the files that is there; pick says why no
// session was.
func firstAudit(pick error, paths []string, do func(line []byte) error) error {
	for _, p := range paths {
		err := auditFile(p, do)
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return fmt.Errorf("%w, and there is no %s", pick, strings.Join(paths, " or "))
}

// auditFile reads the lines of a file.
func auditFile(path string, do func(line []byte) error) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	defer file.Close()
	sc := bufio.NewScanner(file)
	sc.Buffer(make([]byte, 64<<10), hostapi.MaxLine)
	for sc.Scan() {
		if err := do(sc.Bytes()); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("read the audit: %w", err)
	}
	return nil
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
