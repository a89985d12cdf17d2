package sandbox

import (
	"context"
	"errors"
	"os"
	"syscall"

	"outcall/sandbox/gate"
	"outcall/sandbox/stdio"
	"outcall/sandbox/term"
)

// A terminal is the user's terminal while the command has a pty behind it.
type terminal struct {
	t     *term.Terminal
	out   *os.File // where the pty's output goes
	relay *term.Relay
}

// openTerminal finds the user's terminal among the descriptors that are to
// become the pty: the first that is written to, else standard input.
func openTerminal(files [3]*os.File, kind [3]stdio.Kind) (*terminal, error) {
	t := &terminal{}
	for _, i := range []int{1, 2, 0} {
		if kind[i] == stdio.PTY {
			t.out = files[i]
			break
		}
	}
	in := t.out
	if kind[0] == stdio.PTY {
		in = files[0]
	}
	var err error
	if t.t, err = term.Open(in); err != nil {
		return nil, err
	}
	if kind[1] != stdio.PTY { // a pipe's other end may write to the terminal
		t.t.Share()
	}
	return t, t.t.Guard()
}

// attach couples the terminal and the command's pty.
func (t *terminal) attach(ctx context.Context, g *gate.Client, p *gate.Proc) (err error) {
	t.relay, err = t.t.Attach(ctx, t.out, p.Master, job{g, p})
	return err
}

// drain waits until what the command wrote is on the terminal.
func (t *terminal) drain(ctx context.Context) {
	if t.relay != nil {
		t.relay.Drain(ctx)
	}
}

// restore gives the terminal back as it was.
func (t *terminal) restore() error {
	var err error
	if t.relay != nil {
		err = t.relay.Close()
	}
	return errors.Join(err, t.t.EndGuard())
}

// A job is the command as the terminal sees it.
type job struct {
	g *gate.Client
	p *gate.Proc
}

// Stops implements term.Job.
func (j job) Stops() <-chan syscall.Signal { return j.p.Stops() }

// Continue implements term.Job.
func (j job) Continue(ctx context.Context) error { return j.g.Signal(ctx, j.p, syscall.SIGCONT) }
