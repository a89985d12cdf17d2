package shim

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"outcall/shim/child"
)

// A script plays an agent socket that goes wrong at a chosen step: it answers
// the connections one after the other.
type script []func(c net.Conn)

// read takes one request, head and body, and answers nothing.
func read(c net.Conn) {
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err == nil {
		io.Copy(io.Discard, r.Body)
	}
}

func say(text string) func(net.Conn) {
	return func(c net.Conn) {
		read(c)
		io.WriteString(c, text)
	}
}

func response(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

var (
	checkedIn = say(response(`{"session_token":"` + token + `"}`))
	allowed   = say(response(`{"allowed":true,"matched_rule":"r","reason":null}`))
)

// play serves the script and then closes the listener: nobody is there any
// more. Its socket file stays.
func (s script) play(t *testing.T) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "shim")
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	t.Cleanup(func() { l.Close(); os.RemoveAll(dir) })
	if len(s) == 0 {
		l.Close()
	}
	go func() { // ends with the script, or with l
		for i, f := range s {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if i == len(s)-1 {
				l.Close()
			}
			f(c)
			c.Close()
		}
	}()
	return socket
}

// A server that dies before, during or between its answers: nothing is run.
func TestServerDies(t *testing.T) {
	full := response(`{"allowed":true,"matched_rule":"r","reason":null}`)
	for name, s := range map[string]script{
		"before":                      {},
		"at once":                     {func(net.Conn) {}},
		"while it reads the check-in": {read},
		"in the check-in":             {say(response(`{"session_token":"` + token + `"}`)[:60])},
		"after the check-in":          {checkedIn},
		"while it reads the question": {checkedIn, read},
		"in the verdict's head":       {checkedIn, say(full[:10])},
		"before the body":             {checkedIn, say(full[:strings.Index(full, "{")])},
		"in the body":                 {checkedIn, say(full[:len(full)-1])},
		"in a chunk":                  {checkedIn, say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{\"allowed\":true}")},
		"in an endless head":          {checkedIn, func(c net.Conn) { read(c); endless(c, "HTTP/1.1 200 OK\r\n", "X: y\r\n") }},
		"in an endless body":          {checkedIn, func(c net.Conn) { read(c); endless(c, "HTTP/1.1 200 OK\r\n\r\n", `{"allowed":true} `) }},
		"in endless chunks": {checkedIn, func(c net.Conn) {
			read(c)
			endless(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			code, ran, _, stderr := run(t, s.play(t), nil, "exec", "true")
			if code != exitNoVerdict || ran != nil || !strings.HasSuffix(stderr, "nothing was run\n") {
				t.Errorf("code %d, ran %q, %q", code, ran, stderr)
			}
		})
	}
}

// endless writes until the client has had enough.
func endless(c net.Conn, head, more string) {
	io.WriteString(c, head)
	for {
		if _, err := io.WriteString(c, more); err != nil {
			return
		}
	}
}

// A server that stalls at any step: the time-out, and nothing is run.
func TestServerStalls(t *testing.T) {
	end := make(chan struct{})
	defer close(end)
	stall := func(before string) func(net.Conn) {
		return func(c net.Conn) { read(c); io.WriteString(c, before); <-end }
	}
	var wg sync.WaitGroup
	for name, s := range map[string]script{
		"check-in": {stall("")}, "verdict": {checkedIn, stall("")}, "head": {checkedIn, stall("HTTP/1.1 200")},
		"body": {checkedIn, stall("HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{\"allowed\":true")},
	} {
		socket := s.play(t)
		wg.Go(func() {
			code, ran, _, stderr := run(t, socket, []string{"OUTCALL_TIMEOUT_SECS=1"}, "exec", "true")
			if code != exitNoVerdict || ran != nil || !strings.Contains(stderr, "no verdict: time-out; nothing was run") {
				t.Errorf("%s: code %d, ran %q, %q", name, code, ran, stderr)
			}
		})
	}
	wg.Wait()
}

// After the verdict: the command is killed and the exit code is 5, with another
// line than that of a missing verdict. Package child tests that it is killed.
func TestServerDiesAfterTheVerdict(t *testing.T) {
	socket := script{checkedIn, allowed}.play(t)
	var out strings.Builder
	c := Caller{Args: []string{"true"}, Env: []string{"PATH=/usr/bin:/bin", "OUTCALL_AGENT_SOCK=" + socket}, Stdout: io.Discard, Stderr: &out,
		Run: func(c child.Command) (int, error) {
			if c.Beat != beat {
				t.Errorf("it is looked at each %v", c.Beat)
			}
			if err := c.Alive(t.Context()); err != nil {
				return 0, &child.Lost{Err: err}
			}
			return 0, nil
		}}
	if code := Main(t.Context(), c); code != exitNoVerdict || !strings.HasPrefix(out.String(), "outcall-agent: the session has ended: ") ||
		!strings.Contains(out.String(), "connection refused") || !strings.HasSuffix(out.String(), "the command was killed\n") {
		t.Errorf("code %d, %q", code, out.String())
	}
}

// smallQueue listens with room for few waiting connections.
func smallQueue(t *testing.T, path string) net.Listener {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 16); err != nil {
		t.Fatal(err)
	}
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A thousand at once, on a socket with a short queue: each gets its
// verdict, and memory stays small.
func TestThousand(t *testing.T) {
	const n = 1000
	socket := filepath.Join(t.TempDir(), "s")
	l := smallQueue(t, socket)
	var asked atomic.Int32
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/checkin" {
			io.WriteString(w, `{"session_token":"`+token+`"}`)
			return
		}
		asked.Add(1)
		io.WriteString(w, `{"allowed":true}`)
	})}
	go srv.Serve(l)
	defer srv.Close()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var wg sync.WaitGroup
	var failed atomic.Int32
	for range n {
		wg.Go(func() {
			var out strings.Builder
			if code := Main(context.Background(), Caller{Args: []string{"fetch", "h.test"}, Env: []string{"OUTCALL_AGENT_SOCK=" + socket}, Stderr: &out}); code != 0 {
				failed.Add(1)
				t.Log(out.String())
			}
		})
	}
	wg.Wait()
	runtime.ReadMemStats(&after)
	if failed.Load() > 0 || asked.Load() != n {
		t.Errorf("%d of %d failed, %d were asked", failed.Load(), n, asked.Load())
	}
	if grown := int64(after.Sys) - int64(before.Sys); grown > 256<<20 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
}

func buildShim(t testing.TB) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "outcall-agent")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", bin, "outcall/cmd/outcall-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

// The same with processes: a thousand of them, at most 48 at a time.
func TestThousandProcesses(t *testing.T) {
	bin := buildShim(t)
	socket := serveAgent(t, &agentAPI{verdict: allow})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	slots := make(chan struct{}, 48)
	var wg sync.WaitGroup
	for range 1000 {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			cmd := exec.CommandContext(ctx, bin, "fetch", "h.test")
			cmd.Env = []string{"OUTCALL_AGENT_SOCK=" + socket}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
}

// One verdict, from the start of the process to its end.
func BenchmarkVerdict(b *testing.B) {
	bin := buildShim(b)
	socket := serveAgent(b, &agentAPI{verdict: allow})
	for b.Loop() {
		cmd := exec.Command(bin, "fetch", "h.test")
		cmd.Env = []string{"OUTCALL_AGENT_SOCK=" + socket}
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
}
