package view

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// stageListen binds sockets and says so; then each connection and datagram is
// a line "reached".
func stageListen(args []string) int {
	for _, a := range args {
		kind, path, _ := strings.Cut(a, ":")
		if dir, base, ok := strings.Cut(path, "//"); ok { // relative to dir
			if err := os.Chdir(dir); err != nil {
				return say(err)
			}
			path = base
		}
		if kind == "dgram" {
			c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
			if err != nil {
				return say(err)
			}
			go func() {
				for {
					if _, err := c.Read(make([]byte, 1)); err == nil {
						fmt.Println("reached", a)
					}
				}
			}()
			continue
		}
		l, err := net.Listen("unix", path)
		if err != nil {
			return say(err)
		}
		go func() {
			for {
				if c, err := l.Accept(); err == nil {
					fmt.Println("reached", a)
					c.Read(make([]byte, 1))
					c.Close()
				}
			}
		}()
	}
	fmt.Println("ready")
	os.Stdin.Read(make([]byte, 1))
	return 0
}

// stageConnect tries each socket and prints the kernel's answer.
func stageConnect(args []string) int {
	for _, a := range args {
		kind, path, _ := strings.Cut(a, ":")
		typ := unix.SOCK_STREAM
		if kind == "dgram" {
			typ = unix.SOCK_DGRAM
		}
		fd, err := unix.Socket(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		}
		if err == nil {
			_, err = unix.Write(fd, []byte("x"))
		}
		fmt.Printf("%s %v\n", a, err)
		unix.Close(fd)
	}
	return 0
}

// A listener is a host process with sockets.
type listener struct {
	lines *bufio.Scanner
	end   func() // asks it to end
}

// listen starts a host process of the user that binds sockets, after a script;
// with unshare options it stands in namespaces of its own.
func (u *tester) listen(unshare, before string, socks ...string) *listener {
	u.t.Helper()
	script := before + "\nexec \"$0\" stage listen \"$@\""
	argv := append([]string{"/bin/sh", "-ec", script, u.bin}, socks...)
	if unshare != "" {
		argv = append([]string{"/usr/bin/unshare", unshare}, argv...)
	}
	c := u.command(argv...)
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	must(u.t, err)
	out, err := c.StdoutPipe()
	must(u.t, err)
	must(u.t, c.Start())
	l := &listener{lines: bufio.NewScanner(out), end: func() { in.Close() }}
	u.t.Cleanup(func() { l.end(); c.Wait() })
	if !l.lines.Scan() || l.lines.Text() != "ready" {
		u.t.Fatalf("listener: %q", l.lines.Text())
	}
	return l
}

// reached ends the listener and lists what was reached.
func (l *listener) reached() []string {
	l.end()
	var out []string
	for l.lines.Scan() {
		out = append(out, l.lines.Text())
	}
	return out
}

// TestSocketsOfTheHost is K1: no path socket that a host process has bound
// before the start accepts anything from inside.
func TestSocketsOfTheHost(t *testing.T) {
	u := newTester(t)
	u.dir("work/sub")
	u.dir("mnt")
	at := func(n string) string { return filepath.Join(u.home, n) }
	tmp := "/tmp/" + filepath.Base(filepath.Dir(u.home))
	must(t, os.Mkdir(tmp, 0o777))
	t.Cleanup(func() { os.RemoveAll(tmp) })
	must(t, os.Chmod(tmp, 0o777))

	cases := []struct {
		name, unshare, before, bind, dial string
	}{
		{"in HOME", "", "", "stream:" + at("s1"), at("s1")},
		{"in the workdir", "", "", "stream:" + at("work/s2"), at("work/s2")},
		{"in the workdir's parent, datagram", "", "", "dgram:" + at("s3"), at("s3")},
		{"in /tmp", "", "", "stream:" + tmp + "/s4", tmp + "/s4"},
		{"in /dev/shm", "", "", "stream:/dev/shm/" + filepath.Base(tmp), "/dev/shm/" + filepath.Base(tmp)},
		{"in another netns", "-Urn", "", "stream:" + at("s5"), at("s5")},
		{"relative", "", "", "stream:" + at("work/sub") + "//s6", at("work/sub/s6")},
		{"relative in another netns", "-Urn", "", "stream:" + at("work/sub") + "//s7", at("work/sub/s7")},
		{"under another mount", "-Urmn", "mount --bind " + at("work/sub") + " " + at("mnt"), "stream:" + at("mnt") + "/s8", at("work/sub/s8")},
		{"blank and backslash in the name", "", "", "stream:" + at(`a \040 b`), at(`a \040 b`)},
		{"behind a symlink", "", "ln -s work " + at("link"), "stream:" + at("link/s9"), at("work/s9")},
	}
	var all []*listener
	var dial []string
	for _, c := range cases {
		all = append(all, u.listen(c.unshare, c.before, c.bind))
		kind, _, _ := strings.Cut(c.bind, ":")
		dial = append(dial, "'"+kind+":"+c.dial+"'")
	}
	t.Cleanup(func() { os.Remove("/dev/shm/" + filepath.Base(tmp)) })

	// The control: outside, each is there.
	out, err := u.command("/bin/sh", "-c", u.bin+" stage connect "+strings.Join(dial, " ")).CombinedOutput()
	if err != nil || strings.Count(string(out), "<nil>") != len(cases) {
		t.Fatalf("control: %v\n%s", err, out)
	}
	inside := u.ok(request{Opt: u.options(), Script: BinDir + "/outcall stage connect " + strings.Join(dial, " ")})
	caps := u.ok(request{Opt: u.options(), Caps: true, Script: `
		for s in ` + at("s1") + " " + at("work/s2") + `; do umount $s; umount -l $s; rm -f $s; mv $s $s.x; done 2>/dev/null
		unshare -Urm sh -c 'umount -l ` + at("s1") + ` 2>/dev/null; true'
		` + BinDir + "/outcall stage connect " + strings.Join(dial, " ")})
	for i, c := range cases {
		for _, got := range []string{inside, caps} {
			if strings.Contains(got, strings.Trim(dial[i], "'")+" <nil>") {
				t.Errorf("%s: connected inside:\n%s", c.name, got)
			}
		}
		if r := all[i].reached(); len(r) != 1 {
			t.Errorf("%s: reached %d times, want once (the control)", c.name, len(r))
		}
	}
}
