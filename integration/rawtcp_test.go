package integration

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// Ports of this file's servers on the internet's side.
const (
	sshPort = 2222
	rawPort = 2300
)

// sshServer stands a real sshd at every address, which lets the tests' own user
// in by one key, and returns the environment of a user whose agent has that
// key. The key itself lies where no command inside can see it.
func sshServer(t *testing.T, b *harness.Bed) (env []string) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "ssh-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, key := range []string{"host", "user"} {
		b.Start(b.Program("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir+"/"+key)).Wait().Must(t, 0)
	}
	config := b.Write(dir+"/sshd_config", fmt.Sprintf("HostKey %[1]s/host\nAuthorizedKeysFile %[1]s/user.pub\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nLogLevel ERROR\n", dir))
	host, err := os.ReadFile(dir + "/host.pub")
	if err != nil {
		t.Fatal(err)
	}
	b.Write(".ssh/known_hosts", fmt.Sprintf("[git.allowed.test]:%d %s", sshPort, host))
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		t.Fatalf("%v: install openssh-server, or run `make deps`", err)
	}
	b.Stand(t, sshPort, func(c *net.TCPConn) {
		f, err := c.File()
		if err != nil {
			return
		}
		defer f.Close()
		cmd := world.Command(sshd, "-i", "-e", "-f", config)
		cmd.Stdin, cmd.Stdout = f, f
		cmd.Env = []string{"PATH=/usr/bin:/bin"}
		if b.StartThere(cmd) == nil {
			cmd.Wait() // its code is the client's matter
		}
	})
	sock := dir + "/agent"
	agent := b.Start(b.Program("ssh-agent", "-D", "-a", sock))
	harness.MustEventually(t, harness.Patience, "the agent listens", func() bool { _, err := os.Stat(sock); return err == nil })
	t.Cleanup(func() { agent.Cmd.Process.Kill(); <-agent.Done() })
	b.Setenv("SSH_AUTH_SOCK=" + sock)
	b.Start(b.Program("ssh-add", "-q", dir+"/user")).Wait().Must(t, 0)
	return []string{"-e", "SSH_AUTH_SOCK", "--bind", sock}
}

// sshOptions keep the client to the test's own files.
func sshOptions(b *harness.Bed) string {
	return "-F none -o BatchMode=yes -o UserKnownHostsFile=" + b.Home + "/.ssh/known_hosts"
}

// git over ssh with the user's own agent, by the README's flags: clone, commit
// and push. Without the flags there is no agent, and no key to use.
func TestGitOverSSH(t *testing.T) {
	b := harness.New(t)
	flags := append(sshServer(t, b), harness.Allow("git.allowed.test:"+fmt.Sprint(sshPort))...)
	b.Setenv("GIT_SSH_COMMAND=ssh "+sshOptions(b), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@a.test", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@a.test")
	b.Start(b.Program("git", "init", "-q", "--bare", "-b", "main", b.Home+"/origin.git")).Wait().Must(t, 0)
	url := fmt.Sprintf("ssh://%s@git.allowed.test:%d%s/origin.git", userOfTests(t), sshPort, b.Home)
	script := fmt.Sprintf("set -e; git clone -q %s here; cd here; head -c 3000000 /dev/urandom > big; git add big; git commit -qm one; git push -q origin HEAD:main; git log --oneline origin/main", url)
	r := b.Sandbox(flags, "sh", "-c", script).Must(t, 0)
	mustContain(t, "log", r.Stdout, "one")
	if out := b.Start(b.Program("git", "-C", b.Home+"/origin.git", "log", "--oneline", "main")).Wait().Must(t, 0).Stdout; !strings.Contains(out, "one") {
		t.Errorf("what was pushed: %q", out)
	}
	r = b.Sandbox(flags[len(flags)-3:], "git", "ls-remote", url)
	if r.Code == 0 || !strings.Contains(r.Stderr, "Permission denied") {
		t.Errorf("without the agent: %d %s", r.Code, r.Stderr)
	}
}

func userOfTests(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("id", "-un").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// N15: ssh to an allowed host can forward through that host: that stays
// possible, and shows as one flow to it. No other way opens by it: the name and
// port that it forwards to stay denied from inside.
func TestN15ForwardsGoByTheAllowedHostAlone(t *testing.T) {
	b := harness.New(t)
	flags := append(sshServer(t, b), harness.Allow("git.allowed.test:"+fmt.Sprint(sshPort))...)
	target := at(b.V4(t, "evil.test"), b.Ports.Greet)
	ssh := fmt.Sprintf("ssh %s -p %d -W %s %s@git.allowed.test", sshOptions(b), sshPort, target, userOfTests(t))
	m := b.Mark()
	r := b.Sandbox(flags, "sh", "-c", ssh+" </dev/null; "+harness.Probe+" tcp x "+target)
	mustContain(t, "what the far host forwards", r.Stdout, world.Greeting[:7])
	if lines := r.Lines(t); len(lines) != 1 || lines[0].OK {
		t.Errorf("N15: straight to what was forwarded to: %v", lines)
	}
	git := b.AddrsOf("git.allowed.test")
	b.MustBeQuiet(t, m, func(f world.Frame) bool {
		return onlyQuestions(b.World)(f) || slices.Contains(git, f.Dst.Addr()) && f.Dst.Port() == sshPort
	})
	flows := 0
	for _, e := range b.Events(t, r.Name) {
		if e.Event == "verdict" && e.Layer == "flow" && e.Verdict == "allow" {
			flows++
		}
	}
	if flows != 1 {
		t.Errorf("N15: %d allowed flows in the audit, not the one to the host", flows)
	}
}

// The shapes of protocols that are neither TLS nor HTTP: a server that speaks
// first, a client that does, one octet at a time, both at once, and a server
// that answers an upgrade question. All of them work by a name and a port, and
// the verdict stands in the audit before the server hears of anybody.
func TestRawShapes(t *testing.T) {
	b := harness.New(t)
	replies := func(greeting string, pairs ...string) func(*net.TCPConn) {
		return func(c *net.TCPConn) {
			io.WriteString(c, greeting)
			br := bufio.NewReader(c)
			for i := 0; i+1 < len(pairs); i += 2 {
				b := make([]byte, len(pairs[i]))
				if _, err := io.ReadFull(br, b); err != nil || string(b) != pairs[i] {
					return
				}
				io.WriteString(c, pairs[i+1])
			}
			io.Copy(io.Discard, br)
		}
	}
	const sslRequest, startup = "\x00\x00\x00\x08\x04\xd2\x16\x2f", "\x00\x00\x00\x12\x00\x03\x00\x00user\x00u\x00\x00\x00"
	for i, shape := range []struct {
		what   string
		serve  func(*net.TCPConn)
		say    []string
		answer string
	}{
		{"SMTP", replies("220 mail.test ESMTP\r\n", "EHLO a\r\n", "250 mail.test\r\n"), []string{"EHLO a\r\n"}, "220 mail.test ESMTP\r\n"},
		{"MySQL", replies("\x4a\x00\x00\x00\x0a8.0\x00", "\x01\x00\x00\x01x", "\x07\x00\x00\x02\x00\x00\x00\x02\x00\x00\x00"), []string{"\x01\x00\x00\x01x"}, "\x4a\x00\x00\x00\x0a8.0\x00"},
		{"redis", replies("", "*1\r\n$4\r\nPING\r\n", "+PONG\r\n"), []string{"*1\r\n$4\r\nPING\r\n"}, "+PONG\r\n"},
		{"redis inline, in octets", replies("", "PING\r\n", "+PONG\r\n"), []string{"P", "I", "NG\r\n"}, "+PONG\r\n"},
		{"PostgreSQL without TLS", replies("", sslRequest, "N", startup, "R\x00\x00\x00\x08\x00\x00\x00\x00"), []string{sslRequest}, "N"},
		{"PostgreSQL", replies("", startup, "R\x00\x00\x00\x08\x00\x00\x00\x00"), []string{startup}, "R\x00\x00\x00\x08\x00\x00\x00\x00"},
		{"AMQP", replies("", "AMQP\x00\x00\x09\x01", "\x01\x00\x00"), []string{"AMQP\x00\x00\x09\x01"}, "\x01\x00\x00"},
	} {
		p := uint16(rawPort + i)
		b.Stand(t, p, shape.serve)
		flags := harness.Allow("git.allowed.test:" + port(p))
		args := ""
		for _, s := range shape.say {
			args += fmt.Sprintf(" %x", s)
		}
		script := fmt.Sprintf("P=%s; $P bytes git.allowed.test:%d%s; $P dns udp 10.200.0.1:53 AAAA git.allowed.test >/dev/null; $P bytes '%s'%s",
			harness.Probe, p, args, at(b.V6(t, "git.allowed.test"), p), args)
		r := b.Sandbox(flags, "sh", "-c", script)
		for _, l := range r.Lines(t) {
			if !l.OK || !strings.HasPrefix(l.Data, shape.answer) {
				t.Errorf("%s: %+v", shape.what, l)
			}
		}
	}
}

// What the far side answers to a SYN is what the client hears: a refusal, an
// ICMP unreachable, or nothing at all, in both families.
func TestUpstreamAnswersAreTrue(t *testing.T) {
	b := harness.New(t)
	const closed, silent4, silent6 = 4001, 4002, 4003
	b.StandSilent(t, unix.AF_INET, silent4, b.V4(t, "git.allowed.test").AsSlice())
	b.StandSilent(t, unix.AF_INET6, silent6, b.V6(t, "git.allowed.test").AsSlice())
	gone := b.AddrsOf("api.allowed.test")
	for _, a := range gone {
		dst := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
		route := &netlink.Route{Dst: dst, Type: unix.RTN_UNREACHABLE}
		if a.Is6() {
			route.LinkIndex = 1 // lo: the kernel wants a device for IPv6
		}
		if err := netlink.RouteAdd(route); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { netlink.RouteDel(route) })
	}
	flags := append(harness.Allow("git.allowed.test:4001", "git.allowed.test:4002", "git.allowed.test:4003", "api.allowed.test:4001"), "--no-proxy")
	script := fmt.Sprintf("P=%s; for n in git api; do for t in A AAAA; do $P dns udp 10.200.0.1:53 $t $n.allowed.test; done; done; $P ends late '%s'; $P ends late '%s'; $P ends late '%s'; $P ends late '%s'; $P ends late '%s' & $P ends late '%s'; wait",
		harness.Probe, at(b.V4(t, "git.allowed.test"), closed), at(b.V6(t, "git.allowed.test"), closed), at(b.V4(t, "api.allowed.test"), closed), at(b.V6(t, "api.allowed.test"), closed),
		at(b.V4(t, "git.allowed.test"), silent4), at(b.V6(t, "git.allowed.test"), silent6))
	lines := b.Sandbox(flags, "sh", "-c", script).Lines(t)
	if len(lines) != 10 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, l := range lines[4:] {
		want := []syscall.Errno{unix.ECONNREFUSED, unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.EHOSTUNREACH, 0, 0}[i]
		silent := want == 0
		if l.OK || !silent && syscall.Errno(l.Errno) != want || silent && !strings.Contains(l.Err, "timeout") {
			t.Errorf("%s: %+v, want %v", l.Target, l, want)
		}
	}
}

// What one side does the other side sees, in both directions.
func TestEndsOfBothSides(t *testing.T) {
	b := harness.New(t)
	saw := make(chan string, 8)
	tell := func(n int64, err error) {
		switch {
		case errors.Is(err, syscall.ECONNRESET):
			saw <- "reset"
		case err != nil:
			saw <- err.Error()
		default:
			saw <- fmt.Sprint(n)
		}
	}
	for i, c := range []struct {
		how    string
		server func(*net.TCPConn)
		client string // its error, "" where all was well
		data   string
		seen   string // what the server saw
	}{
		{"half", func(c *net.TCPConn) { n, err := io.Copy(io.Discard, c); io.WriteString(c, "all read"); tell(n, err) }, "", "all read", "7"},
		{"listen", func(c *net.TCPConn) {
			io.WriteString(c, "greeting")
			c.CloseWrite()
			n, err := io.Copy(io.Discard, c)
			tell(n, err)
		}, "", "greeting", "7"},
		{"read", func(c *net.TCPConn) {
			io.ReadFull(c, make([]byte, 7))
			io.WriteString(c, "some")
			c.SetLinger(0)
			tell(0, nil)
		}, "connection reset", "", "0"},
		{"read", func(c *net.TCPConn) { time.Sleep(200 * time.Millisecond); tell(0, nil) }, "connection reset", "", "0"}, // closes with octets unread
		{"reset", func(c *net.TCPConn) { io.WriteString(c, "x"); n, err := io.Copy(io.Discard, c); tell(n, err) }, "", "", "reset"},
		{"unread", func(c *net.TCPConn) {
			io.WriteString(c, strings.Repeat("x", 1000))
			n, err := io.Copy(io.Discard, c)
			tell(n, err)
		}, "", "", "reset"},
	} {
		p := uint16(rawPort + 50 + i)
		b.Stand(t, p, c.server)
		for _, to := range []string{"git.allowed.test", "[" + b.V6(t, "git.allowed.test").String() + "]"} {
			script := fmt.Sprintf("%[1]s dns udp 10.200.0.1:53 AAAA git.allowed.test > /dev/null; %[1]s ends %[2]s '%[3]s:%[4]d'", harness.Probe, c.how, to, p)
			r := b.Sandbox(append(harness.Allow("git.allowed.test:"+port(p)), "--no-proxy"), "sh", "-c", script).Must(t, 0)
			l := r.Lines(t)[0]
			if l.OK != (c.client == "") || !strings.Contains(l.Err, c.client) || c.data != "" && l.Data != c.data {
				t.Errorf("%s: the client: %+v", c.how, l)
			}
			select {
			case got := <-saw:
				if got != c.seen {
					t.Errorf("%s: the server saw %s, not %s", c.how, got, c.seen)
				}
			case <-time.After(harness.Patience):
				t.Errorf("%s: the server saw nothing", c.how)
			}
		}
	}
}

// A way that takes less than the sandbox's own links carries all the same, both
// ways: the host's kernel finds its width, and nothing of it shows inside.
func TestNarrowPath(t *testing.T) {
	b := harness.New(t)
	l, err := netlink.LinkByName("wan0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetMTU(l, 1280); err != nil {
		t.Fatal(err)
	}
	const size = 4 << 20
	for _, family := range []string{"-4", "-6"} {
		script := fmt.Sprintf("head -c %d /dev/zero | curl -sS %s --max-time 30 --data-binary @- http://api.allowed.test/sum; curl -sS %s --max-time 30 'http://api.allowed.test/bytes?n=%d' | sha256sum", size, family, family, size)
		r := b.Sandbox(append(harness.Allow("api.allowed.test"), "--no-proxy"), "sh", "-c", script).Must(t, 0)
		mustContain(t, family, r.Stdout, fmt.Sprintf("%d ", size), world.BytesSum(size))
	}
}
