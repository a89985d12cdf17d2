package hostapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"outcall/sandbox/gate"
)

func TestExec(t *testing.T) {
	_, path := serve(t, &fakeBackend{exec: hostExec})
	c := NewClient(path)
	big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB: four windows, sixteen frames
	for _, tt := range []struct {
		name   string
		argv   []string
		stdin  string
		out    string
		errOut string
		code   int
	}{
		{"code", []string{"/bin/sh", "-c", "exit 7"}, "", "", "", 7},
		{"signal", []string{"/bin/sh", "-c", "kill -9 $$"}, "", "", "", 137},
		{"streams", []string{"/bin/sh", "-c", "echo out; echo err >&2"}, "", "out\n", "err\n", 0},
		{"cat", []string{"/bin/cat"}, big, big, "", 0},
		{"unread input", []string{"/bin/true"}, big, "", "", 0},
		{"no input", []string{"/bin/cat"}, "", "", "", 0},
		{"background child", []string{"/bin/sh", "-c", "sleep 5 & echo started"}, "", "started\n", "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out, errOut bytes.Buffer
			code, err := c.Exec(t.Context(), ExecRequest{Where: InAgent, Command: tt.argv},
				Streams{Stdin: strings.NewReader(tt.stdin), Stdout: &out, Stderr: &errOut})
			if err != nil || code != tt.code {
				t.Fatalf("code %d, %v; want %d", code, err, tt.code)
			}
			if out.String() != tt.out || errOut.String() != tt.errOut {
				t.Errorf("stdout %d bytes, stderr %q; want %d bytes, %q", out.Len(), errOut.String(), len(tt.out), tt.errOut)
			}
		})
	}
}

func TestExecNotFound(t *testing.T) {
	_, path := serve(t, &fakeBackend{exec: hostExec})
	for name, code := range map[string]int{"/no/such": 127, "/etc/passwd": 126} {
		_, err := NewClient(path).Exec(t.Context(), ExecRequest{Where: InAgent, Command: []string{name}}, Streams{Stdout: io.Discard, Stderr: io.Discard})
		if e, ok := errors.AsType[*StatusError](err); !ok || e.Code != code {
			t.Errorf("%s: %v (%T), want code %d", name, err, err, code)
		}
	}
}

func TestExecSignal(t *testing.T) {
	_, path := serve(t, &fakeBackend{exec: hostExec})
	sigs := make(chan syscall.Signal, 1)
	r, w := io.Pipe()
	go func() {
		io.ReadFull(r, make([]byte, 2)) // the trap is set
		sigs <- syscall.SIGTERM
		io.Copy(io.Discard, r)
	}()
	// Its input is full and unread: the signal must get through all the same.
	code, err := NewClient(path).Exec(t.Context(),
		ExecRequest{Where: InAgent, Command: []string{"/bin/sh", "-c", "trap 'exit 5' TERM; echo x; while :; do sleep 0.05; done"}},
		Streams{Stdin: endless{}, Stdout: w, Stderr: io.Discard, Signals: sigs})
	if err != nil || code != 5 {
		t.Errorf("code %d, %v; want the trap's 5", code, err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// A client that goes away takes the command with it, also one that ignores
// SIGHUP.
func TestExecClientGone(t *testing.T) {
	ended := make(chan syscall.WaitStatus, 1)
	b := &fakeBackend{exec: func(ctx context.Context, r ExecRequest) (*Process, error) {
		p, err := hostExec(ctx, r)
		if err == nil {
			go func() { <-p.Done; ended <- p.Status() }()
		}
		return p, err
	}}
	_, path := serve(t, b)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	go func() { io.ReadFull(r, make([]byte, 2)); cancel() }()
	_, err := NewClient(path).Exec(ctx, ExecRequest{Where: InAgent,
		Command: []string{"/bin/sh", "-c", "trap '' HUP; echo x; while :; do sleep 0.05; done"}},
		Streams{Stdout: w, Stderr: io.Discard})
	if err == nil {
		t.Error("a cancelled exec returned no error")
	}
	select {
	case ws := <-ended:
		if ws.Signal() != syscall.SIGKILL {
			t.Errorf("ended by %v", ws.Signal())
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the command outlived its client")
	}
}

// More input than the window is refused: the stream ends.
func TestExecWindowIsHeld(t *testing.T) {
	q := newInputQueue()
	if !q.put(make([]byte, stdinWindow)) {
		t.Fatal("a full window was refused")
	}
	if q.put([]byte{1}) {
		t.Error("more than the window was taken")
	}
}

func TestExecSessionEnds(t *testing.T) {
	s, path := serve(t, &fakeBackend{exec: hostExec})
	r, w := io.Pipe()
	go func() { io.ReadFull(r, make([]byte, 2)); s.stop() }()
	_, err := NewClient(path).Exec(t.Context(), ExecRequest{Where: InAgent, Command: []string{"/bin/sh", "-c", "echo x; sleep 600"}},
		Streams{Stdout: w, Stderr: io.Discard})
	if !errors.Is(err, errNoExit) {
		t.Errorf("err = %v, want that the session ended", err)
	}
}

// The tty side over a pipe pair in place of a pty: what Spawn makes of a
// gate.Proc is driven by the integration tests; here the file handling.
func TestPipeEnds(t *testing.T) {
	for _, input := range []bool{true, false} {
		in, out, err := pipe(input)
		if err != nil {
			t.Fatal(err)
		}
		flags := func(f *os.File) int {
			n, _, errno := syscall.Syscall(syscall.SYS_FCNTL, f.Fd(), syscall.F_GETFL, 0)
			if errno != 0 {
				t.Fatal(errno)
			}
			return int(n)
		}
		raw := flags(in)
		if raw&syscall.O_NONBLOCK != 0 {
			t.Error("the command's end does not block")
		}
		if wantW := !input; (raw&syscall.O_ACCMODE == syscall.O_WRONLY) != wantW {
			t.Errorf("input %v: the command's end has mode %#o", input, raw&syscall.O_ACCMODE)
		}
		in.Close()
		out.Close()
	}
}

type refusingSpawner struct{ stdio int }

func (s *refusingSpawner) Spawn(_ context.Context, _ gate.Where, spec gate.Spec) (*gate.Proc, error) {
	for _, f := range spec.Stdio {
		if f != nil {
			s.stdio++
		}
	}
	return nil, &gate.StageError{Stage: "exec", Errno: syscall.EACCES}
}
func (*refusingSpawner) Signal(context.Context, *gate.Proc, syscall.Signal) error { return nil }

func TestSpawnRefused(t *testing.T) {
	before := openFiles(t)
	g := &refusingSpawner{}
	_, err := Spawn(t.Context(), g, gate.Agent, gate.Spec{Argv: []string{"x"}})
	if StartCode(err) != 126 || g.stdio != 3 {
		t.Errorf("err = %v, %d descriptors passed", err, g.stdio)
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors left open", after-before)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

// The server closes a stream that breaks the protocol, and the command ends.
func TestExecBadFrames(t *testing.T) {
	for name, bad := range map[string][]byte{
		"unknown type": {9, 0, 0, 0, 0},
		"server frame": {frameExit, 0, 0, 0, 1, 0},
		"too long":     {frameStdin, 0xff, 0xff, 0xff, 0xff},
		"short resize": {frameResize, 0, 0, 0, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			ended := make(chan struct{})
			b := &fakeBackend{exec: func(ctx context.Context, r ExecRequest) (*Process, error) {
				p, err := hostExec(ctx, r)
				if err == nil {
					go func() { <-p.Done; close(ended) }()
				}
				return p, err
			}}
			_, path := serve(t, b)
			c, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			in, err := NewClient(path).upgrade(c, ExecRequest{Where: InAgent, Command: []string{"/bin/sleep", "600"}})
			if err != nil {
				t.Fatal(err)
			}
			c.Write(bad)
			if _, err := io.ReadAll(in); err != nil {
				t.Errorf("the stream ended with %v", err)
			}
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				t.Fatal("the command goes on")
			}
		})
	}
}

func FuzzFrameReader(f *testing.F) {
	f.Add([]byte{frameStdin, 0, 0, 0, 1, 'x', frameExit, 0, 0, 0, 1, 3})
	f.Add([]byte{frameResize, 0, 0, 0, 4, 0, 24, 0, 80})
	f.Add([]byte{frameStdout, 0, 1, 0, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		fr := &frameReader{r: bytes.NewReader(data)}
		used := 0
		var again bytes.Buffer
		w := &frameWriter{w: &again}
		for {
			fm, err := fr.next()
			if err != nil {
				break
			}
			if len(fm.payload) > maxFrame || fm.check() != nil {
				t.Fatalf("frame %d with %d bytes was taken", fm.typ, len(fm.payload))
			}
			used += frameHeader + len(fm.payload)
			if err := w.write(fm.typ, fm.payload); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(again.Bytes(), data[:used]) {
			t.Fatal("what was read is not what was written")
		}
	})
}
