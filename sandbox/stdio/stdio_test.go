package stdio

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run gives a shell script the descriptors that a Set makes of files, and
// waits for both.
func run(t *testing.T, files [3]*os.File, script string) *Set {
	t.Helper()
	s, err := New(files, false)
	must(t, err)
	c := &exec.Cmd{Path: "/bin/sh", Args: []string{"sh", "-c", script}}
	c.Stdin, c.Stdout, c.Stderr = s.Child[0], s.Child[1], s.Child[2]
	must(t, c.Start())
	s.Start()
	if err := c.Wait(); err != nil {
		if !errors.As(err, new(*exec.ExitError)) {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	must(t, s.Wait(ctx))
	must(t, s.Close())
	return s
}

func tempFile(t *testing.T, text string) *os.File {
	t.Helper()
	p := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(p, []byte(text), 0o644))
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// output makes a file to collect what is written.
func output(t *testing.T) (*os.File, func() string) {
	f := tempFile(t, "")
	return f, func() string {
		b, err := os.ReadFile(f.Name())
		must(t, err)
		return string(b)
	}
}

func socketPair(t *testing.T, typ int) (a, b *os.File) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	a, b = os.NewFile(uintptr(p[0]), "a"), os.NewFile(uintptr(p[1]), "b")
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// TestNoDescriptorOfTheHost is K2: a TCP socket, a datagram socket, a file and
// a device arrive as pipes, and their bytes still flow.
func TestNoDescriptorOfTheHost(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	defer client.Close()
	server, err := l.Accept()
	must(t, err)
	defer server.Close()
	tcp, err := client.(*net.TCPConn).File()
	must(t, err)
	defer tcp.Close()
	_, err = server.Write([]byte("from the net\n"))
	must(t, err)
	dgram, peer := socketPair(t, unix.SOCK_DGRAM)
	_, err = peer.Write([]byte("from a datagram\n"))
	must(t, err)
	file := tempFile(t, "from a file\n")
	zero, err := os.Open("/dev/zero")
	must(t, err)
	defer zero.Close()

	for _, c := range []struct {
		name string
		in   *os.File
		want string
	}{
		{"tcp", tcp, "from the net"}, {"dgram", dgram, "from a datag"}, {"file", file, "from a file"}, {"device", zero, ""},
	} {
		out, read := output(t)
		run(t, [3]*os.File{c.in, out, out}, `readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2; head -c 12 | tr -d '\0'`)
		got := read()
		if strings.Count(got, "pipe:[") != 3 || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}

func TestRefused(t *testing.T) {
	dir, err := os.Open("/")
	must(t, err)
	defer dir.Close()
	var ke *KindError
	if _, err := New([3]*os.File{nil, dir, nil}, false); !errors.As(err, &ke) || ke.FD != 1 || ke.What != "a directory" {
		t.Errorf("directory: %v", err)
	}
	loop := filepath.Join(t.TempDir(), "block")
	if os.Geteuid() != 0 {
		return // only root makes a node; the test as root has that half
	}
	must(t, unix.Mknod(loop, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 250))))
	fd, err := unix.Open(loop, unix.O_PATH, 0) // the type is known without a driver
	must(t, err)
	f := os.NewFile(uintptr(fd), loop)
	defer f.Close()
	if _, err := New([3]*os.File{f, nil, nil}, false); !errors.As(err, &ke) || ke.What != "a block device" {
		t.Errorf("block device: %v", err)
	}
}

func TestHandedIn(t *testing.T) {
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	must(t, err)
	defer null.Close()
	s, err := New([3]*os.File{null, w, nil}, true)
	must(t, err)
	if s.Child[0] != null || s.Child[1] != w || s.Child[2] == nil || s.TTY {
		t.Errorf("%+v", s)
	}
	must(t, s.Close())
	if _, err := w.Write([]byte("x")); err != nil {
		t.Errorf("the caller's pipe was closed: %v", err)
	}
}

func TestTerminal(t *testing.T) {
	master, tty, err := pty.Open()
	must(t, err)
	defer master.Close()
	defer tty.Close()
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	defer w.Close()
	s, err := New([3]*os.File{tty, w, tty}, true)
	must(t, err)
	if !s.TTY || s.Child[0] != nil || s.Child[1] != w || s.Child[2] != nil {
		t.Errorf("mixed: %+v", s)
	}
	s, err = New([3]*os.File{tty, w, tty}, false)
	must(t, err)
	if s.TTY || s.Kind[0] != Pumped || s.Child[0] == tty || s.Child[2] == tty {
		t.Errorf("no pty wanted: %+v", s)
	}
	must(t, s.Close())
}

// TestOneOpenFile: descriptors that are the same open file share a pipe, and
// so the order of what is written to them is kept.
func TestOneOpenFile(t *testing.T) {
	out, read := output(t)
	dup, err := unix.FcntlInt(out.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	must(t, err)
	again := os.NewFile(uintptr(dup), "again")
	defer again.Close()
	run(t, [3]*os.File{nil, out, again}, `for i in 1 2 3 4 5 6 7 8 9; do echo o$i; echo e$i >&2; done`)
	var want strings.Builder
	for _, i := range "123456789" {
		want.WriteString("o" + string(i) + "\ne" + string(i) + "\n")
	}
	if read() != want.String() {
		t.Errorf("%q", read())
	}
	other, err := os.OpenFile(out.Name(), os.O_RDWR, 0)
	must(t, err)
	defer other.Close()
	if sameOpenFile(out, other) {
		t.Error("two opens of one file are taken for one")
	}
	if !sameOpenFile(out, again) || !looksSame(int(out.Fd()), dup) {
		t.Error("a duplicate is not known")
	}
}

// TestBytes: a megabyte through both pumps arrives unchanged, and so does the
// end of file.
func TestBytes(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	in := tempFile(t, string(data))
	a, b := socketPair(t, unix.SOCK_STREAM)
	got := make(chan []byte)
	go func() {
		all, _ := io.ReadAll(b)
		got <- all
	}()
	run(t, [3]*os.File{in, a, nil}, "cat")
	must(t, a.Close())
	if all := <-got; !bytes.Equal(all, data) {
		t.Errorf("%d bytes of %d arrived, or others", len(all), len(data))
	}
}

// TestEPIPE: when the caller's side takes no more, the command is told.
func TestEPIPE(t *testing.T) {
	a, b := socketPair(t, unix.SOCK_STREAM)
	must(t, b.Close())
	errOut, read := output(t)
	run(t, [3]*os.File{nil, a, errOut}, `trap '' PIPE; while echo x 2>/dev/null; do :; done; echo told >&2`)
	if read() != "told\n" {
		t.Errorf("%q", read())
	}
}

// TestUnreadInput: what the command does not read of a file is still there for
// the next one, as in a shell loop that reads a list.
func TestUnreadInput(t *testing.T) {
	for _, c := range []struct{ script, want string }{
		{"true", "one\ntwo\nthree\n"},
		{"read a", "two\nthree\n"}, // a shell reads a pipe byte by byte
		{"cat", ""},
		{"exec <&-; sleep 0", "one\ntwo\nthree\n"},
	} {
		in := tempFile(t, "one\ntwo\nthree\n")
		run(t, [3]*os.File{in, nil, nil}, c.script)
		rest, err := io.ReadAll(in)
		must(t, err)
		if string(rest) != c.want {
			t.Errorf("%s: left %q, want %q", c.script, rest, c.want)
		}
	}
	// Far more than a pipe holds.
	big := strings.Repeat("x", 1<<20)
	in := tempFile(t, big)
	run(t, [3]*os.File{in, nil, nil}, "dd bs=1 count=10 of=/dev/null 2>/dev/null")
	rest, err := io.ReadAll(in)
	must(t, err)
	if len(rest) != len(big)-10 {
		t.Errorf("left %d, want %d", len(rest), len(big)-10)
	}
}

// TestFlags: the caller's open files keep their flags, and the command's
// descriptors block.
func TestFlags(t *testing.T) {
	master, tty, err := pty.Open()
	must(t, err)
	defer master.Close()
	defer tty.Close()
	flags := func(f *os.File) int {
		var fl int
		must(t, control(f, func(fd int) (err error) { fl, err = unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); return }))
		return fl
	}
	before := flags(tty)
	s, err := New([3]*os.File{tty, tty, tty}, false)
	must(t, err)
	for _, f := range s.Child {
		if flags(f)&unix.O_NONBLOCK != 0 {
			t.Error("the command's end does not block")
		}
	}
	s.Start()
	must(t, s.Wait(context.Background()))
	must(t, s.Close())
	if flags(tty) != before {
		t.Error("flags of the terminal were changed")
	}
}

// TestWaitEnds: an output that somebody still holds does not hold Wait beyond
// its context, nor does an input that never comes.
func TestWaitEnds(t *testing.T) {
	a, _ := socketPair(t, unix.SOCK_STREAM)
	s, err := New([3]*os.File{a, a, nil}, false)
	must(t, err)
	held, err := unix.FcntlInt(s.Child[1].Fd(), unix.F_DUPFD_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(held)
	s.Start()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	must(t, s.Close())
	s.wg.Wait() // both pumps end
}
