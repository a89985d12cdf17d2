package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"outcall/sandbox/hostapi"
)

func (a *app) execCommand() *cobra.Command {
	var env []string
	var dir string
	var c *cobra.Command
	c = a.cmd("exec [flags] NAME [--] COMMAND [ARG...]", "run a further command in a session", atLeast("NAME"),
		func(ctx context.Context, args []string) error {
			// The name may be left out before "--" when it is clear.
			name, argv := "", args
			if c.ArgsLenAtDash() != 0 {
				name, argv = args[0], args[1:]
			}
			if len(argv) > 0 && argv[0] == "--" {
				argv = argv[1:]
			}
			if len(argv) == 0 {
				return usagef("exec wants a command")
			}
			for _, e := range env {
				if k, _, ok := strings.Cut(e, "="); !ok || k == "" {
					return usagef("--env %q: want K=V", e)
				}
			}
			return a.exec(ctx, name, hostapi.ExecRequest{Where: hostapi.InAgent, Command: argv, Dir: dir, Env: env})
		})
	c.Long = `Runs COMMAND beside the session's command, with the same rights and under the
same rules. With a terminal on standard input and output it gets one of its own.
The exit code is the command's.`
	c.Example = `  outcall exec agent-1 -- bash
  outcall exec -- env`
	c.Flags().SetInterspersed(false)
	c.Flags().StringArrayVarP(&env, "env", "e", nil, "set `K=V` (repeatable)")
	c.Flags().StringVar(&dir, "workdir", "", "working directory `DIR` (default: the session's)")
	return c
}

func (a *app) bridgeExecCommand() *cobra.Command {
	c := a.cmd("exec [--] COMMAND [ARG...]", "run an operator's tool (nft, tcpdump -i outcall0) in the gateway network namespace", atLeast("COMMAND"),
		func(ctx context.Context, args []string) error {
			return a.exec(ctx, "", hostapi.ExecRequest{Where: hostapi.InGateway, Command: args})
		})
	c.Flags().SetInterspersed(false)
	return c
}

// exec runs a command in a session on this process's streams.
func (a *app) exec(ctx context.Context, name string, r hostapi.ExecRequest) error {
	c, err := a.client(ctx, name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st := hostapi.Streams{Stdin: a.io.in, Stdout: a.io.out, Stderr: a.io.err}
	restore, err := a.terminal(ctx, &r, &st)
	if err != nil {
		return err
	}
	code, err := c.Exec(ctx, r, st)
	restore()
	if err != nil {
		if errors.Is(err, syscall.EPIPE) { // `| head`: as SIGPIPE would
			return &codeError{128 + int(syscall.SIGPIPE), nil}
		}
		return err
	}
	if code != 0 {
		return &codeError{code, nil}
	}
	return nil
}

// terminal makes the exec one with a terminal if ours is one: raw here, so
// that every key goes through; its size is told and followed. Without one,
// signals are passed on. restore puts everything back.
func (a *app) terminal(ctx context.Context, r *hostapi.ExecRequest, st *hostapi.Streams) (restore func(), err error) {
	in, inOK := a.io.in.(*os.File)
	out, outOK := a.io.out.(*os.File)
	sigs := make(chan os.Signal, 16)
	if !inOK || !outOK || !term.IsTerminal(int(in.Fd())) || !term.IsTerminal(int(out.Fd())) {
		signal.Notify(sigs, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
		st.Signals = relaySignals(ctx, sigs)
		return func() { signal.Stop(sigs) }, nil
	}
	old, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, fmt.Errorf("make the terminal raw: %w", err)
	}
	r.TTY = true
	r.Env = append([]string{"TERM=" + os.Getenv("TERM")}, r.Env...)
	r.Rows, r.Cols = size(out)
	signal.Notify(sigs, syscall.SIGWINCH, syscall.SIGTERM, syscall.SIGHUP)
	st.Resize, st.Signals = relayTerminal(ctx, sigs, out)
	return func() {
		signal.Stop(sigs)
		term.Restore(int(in.Fd()), old)
	}, nil
}

func size(f *os.File) (rows, cols uint16) {
	c, r, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 24, 80
	}
	return uint16(r), uint16(c)
}

func relaySignals(ctx context.Context, in <-chan os.Signal) <-chan syscall.Signal {
	out := make(chan syscall.Signal)
	go func() { // ends with the exec
		for {
			select {
			case <-ctx.Done():
				return
			case s := <-in:
				select {
				case out <- s.(syscall.Signal):
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out
}

// relayTerminal tells sizes; a signal that would end us ends the command.
func relayTerminal(ctx context.Context, in <-chan os.Signal, f *os.File) (<-chan [2]uint16, <-chan syscall.Signal) {
	sizes, sigs := make(chan [2]uint16), make(chan syscall.Signal)
	go func() { // ends with the exec
		for {
			select {
			case <-ctx.Done():
				return
			case s := <-in:
				if s != syscall.SIGWINCH {
					select {
					case sigs <- s.(syscall.Signal):
					case <-ctx.Done():
					}
					continue
				}
				rows, cols := size(f)
				select {
				case sizes <- [2]uint16{rows, cols}:
				case <-ctx.Done():
				}
			}
		}
	}()
	return sizes, sigs
}
