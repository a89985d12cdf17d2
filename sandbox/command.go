package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"outcall/sandbox/attrib"
	"outcall/sandbox/gate"
	"outcall/sandbox/hostapi"
	"outcall/sandbox/nft"
	"outcall/sandbox/stdio"
)

// session serves the flows, runs the command and returns its exit code.
func (s *supervisor) session(ctx context.Context, sigs <-chan os.Signal) (int, error) {
	serveCtx, stopServing := context.WithCancel(ctx)
	serving, serveCtx := errgroup.WithContext(serveCtx)
	parts := map[string]func(context.Context) error{
		"netstack": s.stack.Run,
		"pins":     s.pins.Run,
		"NFLOG":    func(ctx context.Context) error { return s.nflog.Run(ctx, s.refuse) },
		"losses":   s.watchLosses,
		"requests": s.keepRequests,
	}
	if s.ports != nil {
		parts["publish"] = func(ctx context.Context) error { return s.ports.Serve(ctx, s.inside, s.stack) }
	}
	for name, run := range parts {
		serving.Go(func() error {
			err := run(serveCtx)
			if serveCtx.Err() != nil {
				return nil
			}
			// Without this part there are no verdicts: the session ends.
			if err == nil {
				err = errors.New("it stopped by itself")
			}
			err = fmt.Errorf("%s: %w", name, err)
			s.requestStop(err.Error())
			return err
		})
	}
	s.banner()
	code, err := s.command(ctx, sigs)
	stopServing()
	if serr := serving.Wait(); serr != nil && err == nil {
		code, err = ExitSetup, fmt.Errorf("the session broke down: %w", serr)
	}
	s.lastLosses(ctx)
	s.summary()
	if at := s.notItsOwn(); at != "" && code != 0 && err == nil && !s.cfg.Quiet {
		s.say(fmt.Sprintf("%s, which may be why it ended with %d: %s", at, code, asRootMend))
	}
	return code, err
}

// refuse hands a packet that the table dropped to the netstack, which finds
// the process, writes the audit line and answers.
func (s *supervisor) refuse(p attrib.Packet) {
	switch p.Prefix {
	case nft.PrefixSpoofed:
		s.stack.RefuseUnanswered(p.Data, "the source address is not the agent's")
	case nft.PrefixGroup:
		s.stack.RefuseUnanswered(p.Data, "it is meant for all on the link or for a group")
	default:
		s.stack.Refuse(p.Data)
	}
}

// command starts the command and sees it through.
func (s *supervisor) command(ctx context.Context, sigs <-chan os.Signal) (code int, err error) {
	files := [3]*os.File{s.cfg.Stdin, s.cfg.Stdout, s.cfg.Stderr}
	set, err := stdio.New(files, true)
	if err != nil {
		return ExitSetup, &setupError{"standard streams", err}
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	spec := gate.Spec{Argv: s.cfg.Command, Env: s.agentEnv, Dir: s.agentDir(), Stdio: set.Child}
	var t *terminal
	if set.TTY {
		if t, err = openTerminal(files, set.Kind); err != nil {
			return ExitSetup, &setupError{"terminal", err}
		}
		defer func() { err = errors.Join(err, t.restore()) }()
		spec.TTY = true
		spec.Rows, spec.Cols = t.t.Size()
	}
	p, err := s.gate.Spawn(ctx, gate.Agent, spec)
	if err != nil {
		if code := hostapi.StartCode(err); code != 0 {
			return code, err
		}
		return ExitSetup, &setupError{"command", err}
	}
	set.Start()
	if t != nil {
		if err := t.attach(ctx, s.gate, p); err != nil {
			return ExitSetup, &setupError{"terminal", err}
		}
	}
	code = s.await(ctx, p, sigs)
	s.flush(ctx, set, t)
	return code, nil
}

// flush sees to it that what the command has written arrives: it is still in
// our pipes. Another process inside may hold them open, so the wait is bounded.
func (s *supervisor) flush(ctx context.Context, set *stdio.Set, t *terminal) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushGrace)
	defer cancel()
	if t != nil {
		t.drain(ctx)
	}
	if err := set.Wait(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		s.say("standard streams: " + err.Error())
	}
}

// await waits for the end of the command. Signals are passed on, and mean to
// the command what they would without outcall; a stop by the operator and the
// time-out are a SIGTERM, and after killGrace a SIGKILL.
func (s *supervisor) await(ctx context.Context, p *gate.Proc, sigs <-chan os.Signal) int {
	var timeout <-chan time.Time
	if s.cfg.Timeout > 0 {
		t := time.NewTimer(s.cfg.Timeout)
		defer t.Stop()
		timeout = t.C
	}
	stopping := s.stopping
	var kill, killed <-chan time.Time
	timedOut := false
	end := func(why string) {
		s.noteStop(why)
		s.signal(ctx, p, syscall.SIGTERM)
		if kill == nil {
			kill = time.After(killGrace)
		}
	}
	for {
		select {
		case <-p.Done():
			return timeoutOr(timedOut, exitCode(p.Status()))
		case <-s.gate.Gone():
			return s.gone(p)
		case sig := <-sigs:
			s.noteStop(fmt.Sprintf("signal: %v", sig))
			s.signal(ctx, p, sig.(syscall.Signal))
		case <-timeout:
			timedOut = true
			end("time-out")
		case <-stopping:
			stopping = nil
			end("stopped")
		case <-ctx.Done():
			s.signal(context.WithoutCancel(ctx), p, syscall.SIGKILL)
			return ExitSetup
		case <-kill:
			s.signal(ctx, p, syscall.SIGKILL)
			kill, killed = nil, time.After(killGrace)
		case <-killed:
			// Not even SIGKILL was seen to end it: what comes next ends the
			// gatekeeper, and with it every process inside.
			return timeoutOr(timedOut, 128+int(syscall.SIGKILL))
		}
	}
}

func timeoutOr(timedOut bool, code int) int {
	if timedOut {
		return ExitTimeout
	}
	return code
}

// signal passes a signal on; the command may have ended meanwhile. It does not
// wait for a gatekeeper that is held up: the agent must not decide whether a
// stop, a time-out or Ctrl-C is seen.
func (s *supervisor) signal(ctx context.Context, p *gate.Proc, sig syscall.Signal) {
	ctx, cancel := context.WithTimeout(ctx, signalGrace)
	defer cancel()
	_ = s.gate.Signal(ctx, p, sig)
}

// gone tells the code of a command whose namespaces have died. The exit may
// be known all the same.
func (s *supervisor) gone(p *gate.Proc) int {
	select {
	case <-p.Done():
		return exitCode(p.Status())
	case <-time.After(time.Second):
		return ExitSetup
	}
}

// noteStop keeps why the session ends; the first reason counts.
func (s *supervisor) noteStop(why string) {
	s.whyMu.Lock()
	defer s.whyMu.Unlock()
	if s.why == "" {
		s.why = why
	}
}

// exitCode is the shell's: the command's own, or 128+n.
func exitCode(ws syscall.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}
