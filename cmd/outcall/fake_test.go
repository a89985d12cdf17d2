package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"outcall/policy"
	"outcall/sandbox/gate"
	"outcall/sandbox/hostapi"
	"outcall/sandbox/session"
)

// hostile is what a name from inside can look like.
const hostile = "evil\x1b]0;owned\a\u202etest\n"

// fakeSession is a session without a sandbox: the API answers with fixed
// values, exec runs on the host.
type fakeSession struct {
	hostapi.Backend // what is not below is not asked
	stopped         chan struct{}
	once            sync.Once
	lines           []string
	reloadErr       error
	rcode           string
	kept            []string
}

func (f *fakeSession) Bridge(context.Context) (hostapi.Bridge, error) {
	two := 2
	return hostapi.Bridge{Name: "outcall0", Up: true, Index: &two, NftablesActive: true}, nil
}
func (f *fakeSession) NFT(context.Context) (string, error) {
	return "table inet outcall {\n\tchain r_\x1b[2J {\n\t}\n}\n", nil
}
func (f *fakeSession) Rules(context.Context) ([]hostapi.Rule, error) {
	return []hostapi.Rule{{ID: "a", Action: "allow", Priority: 100, File: "/r.yaml", Line: 5, ConditionPreview: hostile}}, nil
}
func (f *fakeSession) Counters(context.Context) (hostapi.Counters, error) {
	return hostapi.Counters{Rules: []hostapi.RuleCounter{{ID: "a", Action: "allow", Verdicts: 3}},
		Default: hostapi.RuleCounter{ID: "default policy", Action: "block"}, NXDomain: 7}, nil
}
func (f *fakeSession) Reload(_ context.Context, dry bool) (hostapi.Reload, error) {
	return hostapi.Reload{FilesLoaded: 1, RulesLoaded: 3, Warnings: []string{"/r.yaml:2: unused definition"}, DryRun: dry}, f.reloadErr
}
func (f *fakeSession) DNS(context.Context) (hostapi.DNS, error) {
	return hostapi.DNS{Running: true, ListenAddress: "10.200.0.1", ListenPort: 53}, nil
}
func (f *fakeSession) DNSTest(_ context.Context, r hostapi.DNSTestRequest) (hostapi.DNSTest, error) {
	if r.Keep {
		f.kept = append(f.kept, r.Name+" "+r.Type)
	}
	return hostapi.DNSTest{Name: r.Name, Type: r.Type, Verdict: "deny", Rule: "default policy", Rcode: f.rcode, Answers: []string{hostile}}, nil
}
func (f *fakeSession) Flows(context.Context) ([]hostapi.Flow, error) {
	return []hostapi.Flow{{ID: "f-1", Name: hostile, Process: hostile, Started: time.Now()}}, nil
}
func (f *fakeSession) Explain(_ context.Context, r hostapi.ExplainRequest) (any, error) {
	return policy.Explanation{Target: r.Target, Verdict: "deny", Reason: hostile}, nil
}
func (f *fakeSession) Stop(context.Context) error {
	f.once.Do(func() { close(f.stopped) })
	return nil
}

func (f *fakeSession) Events(ctx context.Context, follow bool, emit func([]byte) error) error {
	for _, l := range f.lines {
		if err := emit([]byte(l)); err != nil {
			return err
		}
	}
	if follow {
		<-ctx.Done()
	}
	return nil
}

// Exec starts the command on the host, with a terminal where one is asked
// for.
func (f *fakeSession) Exec(_ context.Context, r hostapi.ExecRequest) (*hostapi.Process, error) {
	cmd := exec.Command(r.Command[0], r.Command[1:]...)
	cmd.Env = append(os.Environ(), r.Env...)
	p := &hostapi.Process{Resize: func(uint16, uint16) error { return nil }}
	var start func() error
	if r.TTY {
		start = func() error {
			m, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: r.Rows, Cols: r.Cols})
			p.Stdin, p.Stdout = m, ptyOutput{m}
			p.Resize = func(rows, cols uint16) error { return pty.Setsize(m, &pty.Winsize{Rows: rows, Cols: cols}) }
			return err
		}
	} else {
		in, _ := cmd.StdinPipe()
		out, _ := cmd.StdoutPipe()
		errs, _ := cmd.StderrPipe()
		p.Stdin, p.Stdout, p.Stderr, start = in, out, errs, cmd.Start
	}
	if err := start(); err != nil {
		errno := syscall.ENOENT
		errors.As(err, &errno)
		return nil, &gate.StageError{Stage: "exec", Detail: r.Command[0], Errno: errno}
	}
	done := make(chan struct{})
	var ws syscall.WaitStatus
	go func() { // the process is reaped without closing its pipes
		defer close(done)
		if st, err := cmd.Process.Wait(); err == nil {
			ws = st.Sys().(syscall.WaitStatus)
		}
	}()
	p.Done, p.Status = done, func() syscall.WaitStatus { return ws }
	p.Signal = func(s syscall.Signal) error { return cmd.Process.Signal(s) }
	return p, nil
}

// ptyOutput ends with EOF where a pty's master says EIO.
type ptyOutput struct{ *os.File }

func (p ptyOutput) Read(b []byte) (int, error) {
	n, err := p.File.Read(b)
	if errors.Is(err, syscall.EIO) {
		err = io.EOF
	}
	return n, err
}

// startSession makes a live session named name in env.
func startSession(t *testing.T, env session.Env, name string) (*fakeSession, *session.Session) {
	t.Helper()
	s, err := session.Create(t.Context(), env, session.Options{Name: name, Command: []string{"agent", hostile}})
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeSession{stopped: make(chan struct{}), rcode: "NXDOMAIN"}
	l, err := hostapi.Listen(s.Info.Socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := hostapi.NewServer(f)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	go func() { // the session ends when it is stopped
		<-f.stopped
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		srv.Close(ctx)
	}()
	t.Cleanup(func() {
		f.Stop(context.Background())
		if err := <-served; err != nil {
			t.Error(err)
		}
		s.Close(context.Background())
	})
	return f, s
}
