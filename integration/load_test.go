package integration

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"outcall/integration/harness"
)

// otherFlows is the median, in ms, that an allowed flow beside a load may take
// for a round trip, and a new one for its first. On a machine with nothing
// else to do it is a few; here the load itself has the processors, too.
const otherFlows = 500

// loadPort is where plainEcho stands.
const loadPort = 2400

// plainEcho echoes without the pipe, of two descriptors, that io.Copy makes
// for each connection.
func plainEcho(c *net.TCPConn) {
	b := make([]byte, 512)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		if _, err := c.Write(b[:n]); err != nil {
			return
		}
	}
}

// A burden is one way to make the supervisor work or keep something.
type burden struct {
	what, kind string
	count      int
	to         string
	kib        int // what the supervisor may have held beyond an idle one's
}

// Many connections that each hold something leave other flows quick and the
// supervisor small: silent ones, plain and through the proxy, readers that do
// not read, and heads that never end.
func TestBurdensLeaveOtherFlowsAlone(t *testing.T) {
	b := harness.New(t)
	a4 := b.V4(t, "api.allowed.test").String()
	b.Stand(t, loadPort, plainEcho)
	for _, c := range []burden{
		{"readers with a window of zero", "stuck", 500, a4 + ":80", 500 << 10},
		{"heads that never end", "slow", 500, a4 + ":80", 150 << 10},
	} {
		t.Run(c.what, func(t *testing.T) { c.run(t, b, a4) })
	}
}

func (c burden) run(t *testing.T, b *harness.Bed, a4 string) {
	echo := port(loadPort)
	load := fmt.Sprintf("$P load %s %d %s & ", c.kind, c.count, c.to)
	stand := 1
	if c.kind == "tunnel" { // half of them go without the proxy
		load += fmt.Sprintf("$P load idle %d %s:%s & ", c.count, a4, echo)
		stand = 2
	}
	script := fmt.Sprintf("P=%s; $P dns udp 10.200.0.1:53 A api.allowed.test; $P trips 20 %s:%s; echo measured; read go; %s read go; $P trips 20 %s:%s; echo end; read go", harness.Probe, a4, echo, load, a4, echo)
	cmd, name := b.SandboxCommand(harness.Allow("api.allowed.test", "api.allowed.test:"+echo), "sh", "-c", script)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := b.Start(cmd)
	p.Name = name
	defer func() { b.Outcall("stop", name); p.Wait() }()
	p.WaitFor("measured")
	before := peakMemory(t, p.Cmd.Process.Pid)
	fmt.Fprintln(in, "load")
	if !harness.Eventually(2*harness.Patience, func() bool { return strings.Count(p.Output(), "loaded ") == stand }) {
		t.Fatalf("not loaded: %s", p.Output())
	}
	fmt.Fprintln(in, "measure")
	p.WaitFor("end")
	grown := peakMemory(t, p.Cmd.Process.Pid) - before
	threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.Cmd.Process.Pid))
	t.Logf("%s\nmemory %d KiB, and %d KiB more; %d threads", p.Output(), before, grown, len(threads))
	if grown > c.kib {
		t.Errorf("the supervisor has held %d KiB more, at most %d", grown, c.kib)
	}
	if len(threads) > 200 {
		t.Errorf("%d threads", len(threads))
	}
	var old, fresh int
	for _, l := range (harness.Result{Stdout: p.Output()}).Lines(t) {
		switch {
		case l.Op == "trips" && !l.OK, l.Op == "load":
			t.Errorf("%+v", l)
		case l.Op == "trips":
			fmt.Sscan(l.Data, &old, &fresh)
		}
	}
	if old > otherFlows || fresh > otherFlows {
		t.Errorf("other flows: %d ms for a round trip, %d ms for a new one", old, fresh)
	}
	if got := p.Output(); strings.Count(got, fmt.Sprintf("loaded %d failed 0", c.count)) != stand {
		t.Errorf("not all stand: %s", got)
	}
}
