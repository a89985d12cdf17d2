package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"outcall/policy/escape"
	"outcall/shim/hook"
	"outcall/shim/hookfile"
)

// hooksCommand writes agents' settings; it needs no session.
func (a *app) hooksCommand() *cobra.Command {
	return a.group("hooks", "let coding agents ask the policy before each tool call",
		a.hooksEdit("install", "write outcall's hook into an agent's settings of a project", hookfile.Install),
		a.hooksEdit("remove", "take outcall's hook out of an agent's settings of a project", hookfile.Remove))
}

func (a *app) hooksEdit(verb, short string, plan func(dir, agent string) ([]hookfile.Change, error)) *cobra.Command {
	var dir *string
	var yes, dry *bool
	c := a.cmd(verb+" AGENT [--dir DIR] [--yes] [--dry-run]", short, exactly("AGENT"), func(_ context.Context, args []string) error {
		changes, err := plan(*dir, args[0])
		if err != nil {
			return fmt.Errorf("hooks %s: %w", verb, err)
		}
		for _, ch := range changes {
			if _, err := io.WriteString(a.io.out, escape.Block(ch.Diff())); err != nil {
				return a.written(err)
			}
		}
		switch {
		case len(changes) == 0:
			_, err = fmt.Fprintf(a.io.err, "outcall: nothing to do: %s is as hooks %s leaves it\n", escape.Text(*dir), verb)
		case *dry:
		case !*yes:
			if err = a.confirm(); err != nil {
				return fmt.Errorf("hooks %s: %w; nothing was written", verb, err)
			}
			err = hookfile.Write(*dir, changes)
		default:
			err = hookfile.Write(*dir, changes)
		}
		if err == nil && args[0] == "codex" && verb == "install" {
			_, err = io.WriteString(a.io.err, "outcall: Codex runs a project's hook only once its user has trusted it: see docs/hooks.md, also for the MCP server\n")
		}
		return err
	})
	c.Long = "AGENT is " + strings.Join(hook.Names(), ", ") + `. The change is shown as a difference first
and written after a yes on the terminal, or with --yes. What else stands in the
files stays as it is; links, special files and files that are no JSON are
refused. The hook's program is the one inside the sandbox: outside a session the
agent's tool calls are blocked, with words that say so. docs/hooks.md tells which
rules an agent needs.`
	dir = c.Flags().String("dir", ".", "the project's `DIR`ectory")
	yes = c.Flags().Bool("yes", false, "write without asking")
	dry = c.Flags().Bool("dry-run", false, "show the change, write nothing")
	return c
}

// confirm asks on the terminal.
func (a *app) confirm() error {
	in, ok := a.io.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return errors.New("standard input is no terminal to say yes on: use --yes")
	}
	if _, err := io.WriteString(a.io.err, "Write this? [y/N] "); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(in, 64)).ReadString('\n')
	if err != nil {
		return err
	}
	if w := strings.ToLower(strings.TrimSpace(line)); w != "y" && w != "yes" {
		return errors.New("not confirmed")
	}
	return nil
}
