package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"outcall/sandbox/hostapi"
	"outcall/sandbox/session"
)

// app is one call of the program.
type app struct {
	io      stdio
	env     session.Env
	command string // the command path that was reached, for hints

	socket, session string // --socket and --session
}

const long = `outcall runs a command in a rootless sandbox and decides, packet by packet and
name by name, what it may reach. No root, no daemon, no container engine.

  outcall run --allow example.com -- curl https://example.com/

Everything else explains, observes or steers a running session.`

// root builds the command tree.
func (a *app) root() *cobra.Command {
	c := a.group("outcall", "run a command with nothing but the egress that you allow",
		a.runCommand(),
		a.psCommand(), a.stopCommand(), a.execCommand(), a.logCommand(),
		a.bridgeCommand(), a.dnsCommand(), a.proxyCommand(), a.flowsCommand(),
		a.rulesCommand(), a.requestsCommand(), a.explainCommand(), a.suggestCommand(), a.trustCommand(), a.hooksCommand(),
		a.doctorCommand(), a.completionCommand(), a.versionCommand(),
	)
	c.Long = long
	c.SilenceErrors, c.SilenceUsage = true, true
	c.CompletionOptions.DisableDefaultCmd = true
	c.SetHelpCommand(&cobra.Command{Hidden: true, Use: "no-help"})
	// A group is runnable only so that it can refuse; its usage line is the
	// one with a command.
	c.SetUsageTemplate(strings.Replace(c.UsageTemplate(), "{{if .Runnable}}", `{{if and .Runnable (not (index .Annotations "group"))}}`, 1))
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		a.command = c.CommandPath()
		return &usageError{err}
	})
	f := c.PersistentFlags()
	f.SortFlags = false
	f.StringVar(&a.socket, "socket", "", "`PATH` of a session's host.sock")
	f.StringVar(&a.session, "session", "", "`NAME` of a running session (default: the only one)")
	return c
}

// cmd is one leaf command. Usage errors of args and do are told as such.
func (a *app) cmd(use, short string, args cobra.PositionalArgs, do func(ctx context.Context, args []string) error) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, DisableFlagsInUseLine: true,
		Args: func(c *cobra.Command, got []string) error {
			a.command = c.CommandPath()
			if err := args(c, got); err != nil {
				return &usageError{err}
			}
			return nil
		},
		RunE: func(c *cobra.Command, got []string) error { return do(c.Context(), got) },
	}
	c.Flags().SortFlags = false
	return c
}

// none, exactly and atLeast are argument checks that say what is missing.
func none(_ *cobra.Command, got []string) error {
	if len(got) > 0 {
		return fmt.Errorf("unexpected argument %q", got[0])
	}
	return nil
}

func exactly(what ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, got []string) error {
		if len(got) < len(what) {
			return fmt.Errorf("%s is missing", what[len(got)])
		}
		return none(c, got[len(what):])
	}
}

func atLeast(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, got []string) error {
		if len(got) == 0 {
			return fmt.Errorf("%s is missing", what)
		}
		return nil
	}
}

func atMostOne(c *cobra.Command, got []string) error {
	if len(got) > 1 {
		return none(c, got[1:])
	}
	return nil
}

// group is a command that has only commands.
func (a *app) group(use, short string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, DisableFlagsInUseLine: true, SuggestionsMinimumDistance: 2,
		Annotations: map[string]string{"group": "yes"},
	}
	c.Args = func(c *cobra.Command, args []string) error {
		a.command = c.CommandPath()
		if len(args) == 0 {
			return &usageError{errors.New("a command is missing")}
		}
		text := fmt.Sprintf("unknown command %q", args[0])
		if s := c.SuggestionsFor(args[0]); len(s) > 0 {
			text += " (did you mean " + strings.Join(s, " or ") + "?)"
		}
		return &usageError{errors.New(text)}
	}
	c.RunE = func(*cobra.Command, []string) error { return nil } // Args always refuses
	c.AddCommand(children...)
	return c
}

// usagef is a usage error found by a command itself.
func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// client finds the session that is meant: --socket, else --session or name,
// else the only one.
func (a *app) client(ctx context.Context, name string) (*hostapi.Client, error) {
	if a.socket != "" {
		return hostapi.NewClient(a.socket), nil
	}
	if name == "" {
		name = a.session
	}
	i, err := session.Pick(ctx, a.env, name)
	if err != nil {
		return nil, err
	}
	return hostapi.NewClient(i.Socket), nil
}

// ask is a leaf command that calls the session.
func (a *app) ask(use, short string, args cobra.PositionalArgs, do func(ctx context.Context, c *hostapi.Client, args []string) error) *cobra.Command {
	return a.cmd(use, short, args, func(ctx context.Context, args []string) error {
		c, err := a.client(ctx, "")
		if err != nil {
			return err
		}
		return do(ctx, c, args)
	})
}

// jsonFlag adds --json.
func jsonFlag(c *cobra.Command) *bool {
	return c.Flags().Bool("json", false, "print JSON")
}

// file is a stream as the file that run and exec need.
func file(stream any, name string) (*os.File, error) {
	f, ok := stream.(*os.File)
	if !ok {
		return nil, fmt.Errorf("%s is no file", name)
	}
	return f, nil
}
