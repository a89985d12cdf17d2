package integration

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"outcall/integration/harness"
)

// published reads from the banner where a port inside is to be found on the host.
func published(t *testing.T, p *harness.Proc, inside uint16) string {
	t.Helper()
	re := regexp.MustCompile(fmt.Sprintf(`published (\S+)->%d\b`, inside))
	var m []string
	if !harness.Eventually(harness.Patience, func() bool { m = re.FindStringSubmatch(p.Errors()); return m != nil }) {
		t.Fatalf("the banner tells of no port for %d: %s", inside, p.Errors())
	}
	return m[1]
}

// asked sends a word to a published port and returns what comes back until the end.
func asked(at, word string) (string, error) {
	c, err := net.Dial("tcp", at)
	if err != nil {
		return "", err // the other side can be as quick as that
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(harness.Patience))
	io.WriteString(c, word)
	c.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(c)
	return string(b), err
}

// inbound are the lines of published connections.
func inbound(t *testing.T, b *harness.Bed, session, event string) (out []harness.Event) {
	t.Helper()
	for _, e := range b.Events(t, session) {
		if e.Via == "publish" && e.Event == event {
			out = append(out, e)
		}
	}
	return out
}

// Each published port leads to whoever listens inside: on 127.0.0.1, on ::1,
// or at the agent's address alone. Each connection has its two lines in the
// audit, and ps and session tell of the ports.
func TestPublish(t *testing.T) {
	b := harness.New(t)
	serve := harness.Probe + " answer 127.0.0.1:3000 & " + harness.Probe + " answer '[::1]:3001' & " + harness.Probe + " answer 10.200.0.2:3002 & wait"
	name := b.NewName()
	p := b.Start(b.Command("run", "--name", name, "-p", "0:3000", "-p", "127.0.0.1:0:3001", "-p", "[::1]:0:3002", "--", "sh", "-c", serve))
	p.Name = name
	for range 3 {
		p.WaitFor("answering")
	}
	harness.MustEventually(t, harness.Patience, "all listen", func() bool { return strings.Count(p.Output(), "answering") == 3 })
	for inside, host := range map[uint16]string{3000: "127.0.0.1:", 3001: "127.0.0.1:", 3002: "[::1]:"} {
		at := published(t, p, inside)
		if !strings.HasPrefix(at, host) {
			t.Errorf("%d is published at %s", inside, at)
		}
		got, err := asked(at, "hello")
		if err != nil || got != "hello" {
			t.Errorf("%d: %q, %v", inside, got, err)
		}
	}
	mustContain(t, "ps", b.Outcall("ps").Must(t, 0).Stdout, published(t, p, 3000)+"->3000", published(t, p, 3002)+"->3002")
	mustContain(t, "ps --json", strings.Join(strings.Fields(b.Outcall("ps", "--json").Must(t, 0).Stdout), ""),
		fmt.Sprintf(`"published":[{"host":%q,"port":3000}`, published(t, p, 3000)), fmt.Sprintf(`{"host":%q,"port":3002}]`, published(t, p, 3002)))
	b.Outcall("stop", name).Must(t, 0)
	p.Wait()
	for _, event := range []string{"verdict", "end"} {
		lines := inbound(t, b, name, event)
		if len(lines) != 3 {
			t.Errorf("%d %s lines: %v", len(lines), event, lines)
		}
		for _, e := range lines {
			if event == "verdict" && e.Verdict != "allow" || event == "end" && (e.BytesIn != 5 || e.BytesOut != 5) || mustAddr(e.IP).IsLoopback() == false || e.Port < 3000 || e.ID == "" {
				t.Errorf("the line %s", e)
			}
		}
	}
	if _, err := net.Dial("tcp", published(t, p, 3000)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after the end: %v", err)
	}
	// What came in is nobody's use of a rule.
	mustLack(t, "suggest", b.Outcall("suggest", name).Stdout, "127.0.0.1", "3000")
}

// What the one side does the other side sees: an end of one direction, a
// reset, a refusal, and the session's own doings.
func TestPublishEnds(t *testing.T) {
	b := harness.New(t)
	name := b.NewName()
	p := b.Start(b.Command("run", "--name", name, "-p", "0:3000", "-p", "0:3001", "-p", "0:3009", "--", "sh", "-c",
		harness.Probe+" answer 127.0.0.1:3000 & "+harness.Probe+" answer reset 127.0.0.1:3001 & wait"))
	p.Name = name
	harness.MustEventually(t, harness.Patience, "both listen", func() bool { return strings.Count(p.Output(), "answering") == 2 })
	if got, err := asked(published(t, p, 3001), "x"); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a server that resets: %q, %v", got, err)
	}
	if got, err := asked(published(t, p, 3009), "x"); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("nobody listens: %q, %v", got, err)
	}
	held := func() (net.Conn, *bufio.Reader) {
		c, err := net.Dial("tcp", published(t, p, 3000))
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(harness.Patience))
		r := bufio.NewReader(c)
		fmt.Fprintln(c, "held")
		if s, err := r.ReadString('\n'); s != "held\n" {
			t.Fatalf("%q, %v", s, err)
		}
		return c, r
	}
	ended := func(what string, c net.Conn, r *bufio.Reader) {
		t.Helper()
		if b, err := r.ReadByte(); err == nil || errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("%s: the connection lives: %q, %v", what, b, err)
		}
		c.Close()
	}
	// The client's reset.
	c, _ := held()
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
	harness.MustEventually(t, harness.Patience, "the server sees the reset", func() bool { return strings.Contains(p.Output(), "connection reset") })
	// An operator's kill.
	c, r := held()
	var flows []struct{ ID, Via, Source string }
	list := b.Outcall("--session", name, "flows", "list", "--json").Must(t, 0)
	if err := json.Unmarshal([]byte(list.Stdout), &flows); err != nil || len(flows) != 1 || flows[0].Via != "publish" || flows[0].Source != c.LocalAddr().String() {
		t.Fatalf("flows: %v: %s", err, list.Stdout)
	}
	b.Outcall("--session", name, "flows", "kill", flows[0].ID).Must(t, 0)
	ended("kill", c, r)
	// The bridge: down ends what there is and lets nothing in, up does.
	c, r = held()
	b.Outcall("--session", name, "bridge", "down").Must(t, 0)
	ended("bridge down", c, r)
	if got, err := asked(published(t, p, 3000), "x"); err == nil || got != "" {
		t.Errorf("while the bridge is down: %q, %v", got, err)
	}
	b.SomeDenial(t, name, func(e harness.Event) bool {
		return e.Via == "publish" && e.Structural && strings.Contains(e.Reason, "down")
	})
	b.Outcall("--session", name, "bridge", "up").Must(t, 0)
	c, r = held()
	b.Outcall("stop", name).Must(t, 0)
	ended("the session's end", c, r)
	p.Wait()
}

// A port that is taken, or is none of the user's, ends the start: nothing runs.
func TestPublishTaken(t *testing.T) {
	b := harness.New(t)
	h := newHostEcho(t)
	r := b.Sandbox([]string{"-p", port(h.port) + ":80"}, "echo", "ran").Must(t, 125)
	mustContain(t, "stderr", r.Stderr, "publish", "127.0.0.1:"+port(h.port), "address already in use", "HOSTPORT")
	mustLack(t, "stdout", r.Stdout, "ran")
	r = b.Sandbox([]string{"-p", "localhost:80"}, "echo", "ran").Must(t, 2)
	mustContain(t, "stderr", r.Stderr, "[IP:]HOSTPORT:PORT")
}

// K14: a published port is a way in and no way out: from inside it is nobody's
// address, and what connects there by the host's name is asked a rule as ever.
func TestK14PublishIsNoWayOut(t *testing.T) {
	b := harness.New(t)
	h := newHostEcho(t)
	k := b.Canary(t)
	name := b.NewName()
	// The server inside answers on the port that the host's service has, too:
	// what comes in must end there and not at the host's.
	script := fmt.Sprintf("%[1]s answer 127.0.0.1:%[2]d & while read hostport; do for to in 127.0.0.1:$hostport '[::1]':$hostport 10.200.0.254:$hostport '[fd0c:a11::fe]':$hostport %[4]s:$hostport 10.200.0.1:$hostport 10.200.0.254:%[2]d; do "+
		"%[1]s tcp '%[3]s' $to; done; echo done; done", harness.Probe, h.port, spoken(k.Word), hostName)
	cmd := b.Command("run", "--name", name, "--mode", "observe", "-p", "0:"+port(h.port), "--", "sh", "-c", script)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := b.Start(cmd)
	p.Name = name
	p.WaitFor("answering")
	at := published(t, p, h.port)
	if got, err := asked(at, "mine"); got != "mine" || err != nil {
		t.Errorf("through the published port: %q, %v", got, err)
	}
	fmt.Fprintln(stdin, netip.MustParseAddrPort(at).Port())
	p.WaitFor("done")
	for _, l := range (harness.Result{Stdout: p.Output()}).Lines(t) {
		if l.Op == "tcp" && l.OK {
			t.Errorf("%s answered from inside: %q", l.Target, l.Data)
		}
	}
	if n := len(inbound(t, b, name, "verdict")); n != 1 {
		t.Errorf("%d connections came in", n)
	}
	if got := h.took(); got != "" {
		t.Errorf("the host's loopback heard %q", got)
	}
	k.MustNotArrive(t)
	stdin.Close() // and with it the session
	p.Wait()
}
