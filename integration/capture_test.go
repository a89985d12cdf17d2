package integration

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"outcall/integration/harness"
)

// A captured is one frame of a capture file, as far as the tests look.
type captured struct {
	src, dst netip.AddrPort
	proto    byte
	flags    byte // TCP
	data     int  // TCP: octets behind its header
}

// readCapture reads a savefile of Ethernet frames from its specification
// (draft-ietf-opsawg-pcap), not by our own reader.
func readCapture(t *testing.T, b []byte) (out []captured) {
	t.Helper()
	const head, record, nanoseconds, ethernet = 24, 16, 0xa1b23c4d, 1
	u32 := func(at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
	if len(b) < head || u32(0) != nanoseconds || u32(20)&0xfffff != ethernet || binary.NativeEndian.Uint16(b[4:]) != 2 || binary.NativeEndian.Uint16(b[6:]) != 4 {
		t.Fatalf("no capture: % x", b[:min(len(b), head)])
	}
	snap := int(u32(16))
	for at := head; at < len(b); {
		if len(b) < at+record {
			t.Fatalf("the last record is cut off: %d of %d octets", len(b)-at, record)
		}
		n, wire := int(u32(at+8)), int(u32(at+12))
		if n > snap || n > wire || len(b) < at+record+n || u32(at+4) >= 1e9 {
			t.Fatalf("a record of %d octets, %d on the wire, %d left, %d ns", n, wire, len(b)-at-record, u32(at+4))
		}
		if age := time.Since(time.Unix(int64(u32(at)), int64(u32(at+4)))); age < 0 || age > time.Hour {
			t.Errorf("frame %d is of %v ago", len(out)+1, age)
		}
		out = append(out, readFrame(b[at+record:at+record+n]))
		at += record + n
	}
	return out
}

func readFrame(b []byte) (c captured) {
	if len(b) < 14+20 {
		return c
	}
	ip := b[14:]
	var l4 []byte
	var src, dst netip.Addr
	switch binary.BigEndian.Uint16(b[12:]) {
	case unix.ETH_P_IP:
		// A short frame is padded: the header says where the packet ends.
		c.proto, l4 = ip[9], ip[int(ip[0]&15)*4:min(len(ip), int(binary.BigEndian.Uint16(ip[2:])))]
		src, dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	case unix.ETH_P_IPV6:
		if len(ip) < 40 {
			return c
		}
		c.proto, l4 = ip[6], ip[40:]
		src, dst = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
	default:
		return c
	}
	var sp, dp uint16
	if (c.proto == unix.IPPROTO_TCP || c.proto == unix.IPPROTO_UDP) && len(l4) >= 8 {
		sp, dp = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
	}
	if c.proto == unix.IPPROTO_TCP && len(l4) >= 20 {
		c.flags, c.data = l4[13], len(l4)-int(l4[12]>>4)*4
	}
	c.src, c.dst = netip.AddrPortFrom(src, sp), netip.AddrPortFrom(dst, dp)
	return c
}

// waitError waits until a program has said text on standard error.
func waitError(t *testing.T, p *harness.Proc, text string) {
	t.Helper()
	harness.MustEventually(t, harness.Patience, "capture says "+text, func() bool { return strings.Contains(p.Errors(), text) })
}

const capturing = "capturing on the bridge"

// idleSession is a session whose command waits; its commands come by exec.
func idleSession(b *harness.Bed, flags ...string) *harness.Proc {
	p := b.StartSandbox(append(harness.Allow("api.allowed.test"), append(flags, "--no-proxy")...), "sh", "-c", "echo ready; exec sleep 1000")
	p.WaitFor("ready")
	return p
}

// A capture has both directions, what was allowed and what was denied, from
// before its verdict; Ctrl-C ends it well, and the file is the operator's.
func TestCaptureToFile(t *testing.T) {
	b := harness.New(t)
	s := idleSession(b)
	file := b.Home + "/session.pcap"
	c := b.Start(b.Command("--session", s.Name, "bridge", "capture", "-w", file))
	waitError(t, c, capturing)
	evil := b.V4(t, "evil.test")
	b.Outcall("exec", s.Name, "--", "curl", "-sS", "-4", "https://api.allowed.test/").Must(t, 0)
	b.Outcall("exec", s.Name, "--", harness.Probe, "tcp", "x", at(evil, 4444), at(b.V6(t, "evil.test"), 4444)).Must(t, 0)
	// The last frame that is looked for is on its way when exec has ended: the
	// file grows until it is there.
	harness.MustEventually(t, harness.Patience, "both refusals are in the file", func() bool {
		raw, err := os.ReadFile(file)
		return err == nil && strings.Count(string(raw), "\x11\x5c") >= 4 // port 4444, to and fro, twice
	})
	c.Cmd.Process.Signal(syscall.SIGINT)
	r := c.Wait().Must(t, 0)
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode is %v, %v", st.Mode(), err)
	}
	frames := readCapture(t, raw)
	mustContain(t, "the last word", r.Stderr, fmt.Sprintf("outcall: %d packets captured", len(frames)))
	seen := map[string]int{}
	for _, f := range frames {
		switch {
		case f.dst == netip.AddrPortFrom(gateway4, 53):
			seen["question"]++
		case f.src == netip.AddrPortFrom(gateway4, 53):
			seen["answer"]++
		case f.dst == netip.AddrPortFrom(evil, 4444) && f.flags == flagSYN:
			seen["denied"]++
		case f.src == netip.AddrPortFrom(evil, 4444) && f.flags&0x04 != 0:
			seen["reset"]++
		case f.dst == netip.AddrPortFrom(b.V4(t, "api.allowed.test"), 443):
			seen["up"]++
		case f.src == netip.AddrPortFrom(b.V4(t, "api.allowed.test"), 443):
			seen["down"]++
		}
	}
	for _, what := range []string{"question", "answer", "denied", "reset", "up", "down"} {
		if seen[what] == 0 {
			t.Errorf("no %s among %d frames: %v", what, len(frames), seen)
		}
	}
	readByTools(t, b, file, len(frames))
	b.Outcall("stop", s.Name).Must(t, 0)
	s.Wait()
}

// readByTools has the file read by the programs that it is for, where this
// machine has them; what they must find in it has been checked without them.
func readByTools(t *testing.T, b *harness.Bed, file string, frames int) {
	t.Helper()
	for _, args := range [][]string{{"tcpdump", "-n", "-t", "-r", file}, {"tshark", "-n", "-r", file}} {
		if _, err := exec.LookPath(args[0]); err != nil {
			t.Logf("%s is not here: the file was read by this test alone", args[0])
			continue
		}
		r := b.Start(b.Program(args[0], args[1:]...)).Wait().Must(t, 0)
		if n := strings.Count(r.Stdout, "\n"); n < frames {
			t.Errorf("%s shows %d of %d frames: %s", args[0], n, frames, r.Stderr)
		}
	}
}

// A capture ends after -c frames, with the bridge, and with its session; one
// session serves four of them at a time.
func TestCaptureEnds(t *testing.T) {
	b := harness.New(t)
	s := idleSession(b)
	var running []*harness.Proc
	for range 4 {
		c := b.Start(b.Command("--session", s.Name, "bridge", "capture"))
		waitError(t, c, capturing)
		running = append(running, c)
	}
	r := b.Outcall("--session", s.Name, "bridge", "capture").Must(t, 1)
	mustContain(t, "a fifth capture", r.Stderr, "4 captures run already")
	running[0].Cmd.Process.Kill() // it can say nothing any more, and its place is free
	running[0].Wait()
	var c *harness.Proc
	harness.MustEventually(t, harness.Patience, "a place is free again", func() bool {
		c = b.Start(b.Command("--session", s.Name, "bridge", "capture", "-c", "3", "-w", "-"))
		return harness.Eventually(harness.Patience, func() bool {
			return strings.Contains(c.Errors(), capturing) || strings.Contains(c.Errors(), "run already")
		}) && strings.Contains(c.Errors(), capturing)
	})
	b.Outcall("exec", s.Name, "--", "curl", "-sS", "https://api.allowed.test/").Must(t, 0)
	r = c.Wait().Must(t, 0)
	if n := len(readCapture(t, []byte(r.Stdout))); n != 3 {
		t.Errorf("-c 3 gave %d frames", n)
	}
	b.Outcall("--session", s.Name, "bridge", "down").Must(t, 0)
	for _, c := range running[1:3] {
		mustContain(t, "the bridge goes", c.Wait().Must(t, 1).Stderr, "bridge went down")
	}
	running[3].Wait()
	r = b.Outcall("--session", s.Name, "bridge", "capture").Must(t, 1)
	mustContain(t, "a capture of no bridge", r.Stderr, "the bridge is down")
	b.Outcall("--session", s.Name, "bridge", "up").Must(t, 0)
	c = b.Start(b.Command("--session", s.Name, "bridge", "capture"))
	waitError(t, c, capturing)
	b.Outcall("stop", s.Name).Must(t, 0)
	c.Wait().Must(t, 0)
	s.Wait()
}

// While the agent floods, a capture whose reader is slow loses frames and says
// how many; the wire loses none by it, and Ctrl-C ends the capture.
func TestCaptureOfAFlood(t *testing.T) {
	b := harness.New(t)
	s := idleSession(b)
	slow, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	cmd := b.Command("--session", s.Name, "bridge", "capture", "-w", "-")
	cmd.Stdout = out
	c := b.Start(cmd)
	out.Close()
	waitError(t, c, capturing)
	evil := b.V4(t, "evil.test")
	for range 2 {
		b.Outcall("exec", s.Name, "--", harness.Probe, "flood", evil.String(), "1000-60000").Must(t, 0)
	}
	const size = 64 << 20
	r := b.Outcall("exec", s.Name, "--", "curl", "-sS", "-o", "/dev/null", "-w", "%{size_download}", fmt.Sprintf("http://api.allowed.test/bytes?n=%d", size))
	if r.Stdout != fmt.Sprint(size) {
		t.Errorf("under a capture: %q %s", r.Stdout, r.Stderr)
	}
	c.Cmd.Process.Signal(syscall.SIGINT)
	got, err := io.ReadAll(slow)
	if err != nil {
		t.Fatal(err)
	}
	r = c.Wait().Must(t, 0)
	if n := len(readCapture(t, got)); n == 0 {
		t.Error("nothing was captured")
	}
	mustContain(t, "the last word", r.Stderr, "packets captured", "more came too fast")
	b.Outcall("stop", s.Name).Must(t, 0)
	s.Wait()
	told := false
	for _, e := range b.Events(t, s.Name) {
		told = told || e.Event == "limit" && strings.HasPrefix(e.Reason, "capture: ") && e.Count > 0
	}
	if !told {
		t.Error("the audit does not tell of frames that are not in the capture")
	}
}
