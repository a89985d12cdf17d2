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
// for a round trip, and a new one for its first. With two processors, which the
// load has, too, it is one or two.
const otherFlows = 100

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

// flowKiB is what an idle flow may cost the supervisor.
const flowKiB = 72

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
		{"ten thousand idle tunnels", "tunnel", 10000, "api.allowed.test:" + port(loadPort), 10000 * flowKiB},
	} {
		t.Run(c.what, func(t *testing.T) { c.run(t, b, a4) })
	}
}

// The house's limit of flows, where the process may have few files: with the
// table full the longest idle flow goes, each new one is served, and the audit
// tells of the limit.
func TestFullFlowTable(t *testing.T) {
	const files, flows, opened = 2048, 1024, 1500 // half of the files are for flows
	b := harness.New(t)
	a4, echo := b.V4(t, "api.allowed.test").String(), port(loadPort)
	b.Stand(t, loadPort, plainEcho)
	script := fmt.Sprintf("P=%[1]s; $P dns udp 10.200.0.1:53 A api.allowed.test; $P load idle %[2]d %[3]s:%[4]s & read go; $P trips 10 %[3]s:%[4]s; echo end; read go", harness.Probe, opened, a4, echo)
	name := b.NewName()
	args := append([]string{fmt.Sprintf("--nofile=%d:%d", files, files), harness.Outcall, "run", "--name", name}, harness.Allow("api.allowed.test", "api.allowed.test:"+echo)...)
	cmd := b.Program("prlimit", append(args, "--", "sh", "-c", script)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := b.Start(cmd)
	defer func() { b.Outcall("stop", name); p.Wait() }()
	p.WaitFor("loaded ")
	fmt.Fprintln(in, "measure")
	p.WaitFor("end")
	mustContain(t, "what stood", p.Output(), fmt.Sprintf("loaded %d failed 0", opened))
	for _, l := range (harness.Result{Stdout: p.Output()}).Lines(t) {
		if !l.OK {
			t.Errorf("%+v", l)
		}
	}
	live := b.Start(b.Program("curl", "-sS", "--unix-socket", b.Runtime+"/outcall/"+name+"/host.sock", "http://localhost/api/v1/flows")).Wait().Must(t, 0)
	if n := strings.Count(live.Stdout, `"id":"`); n > flows || n < flows/2 {
		t.Errorf("%d flows are live, of at most %d", n, flows)
	}
	b.Outcall("stop", name).Must(t, 0)
	p.Wait()
	limits, ends := 0, 0
	for _, e := range b.Events(t, name) {
		switch {
		case e.Event == "limit" && strings.Contains(e.Reason, fmt.Sprintf("more than %d flows", flows)):
			limits += max(e.Count, 1)
		case e.Event == "end", e.Event == "overflow": // more lines than a second may have
			ends += max(e.Count, 1)
		}
	}
	if limits < opened-flows || ends < opened {
		t.Errorf("%d limits are told, and %d ends of flows or lines too many", limits, ends)
	}
}

// D14: 50,000 questions a second, each for a name of its own that no rule allows,
// for ten seconds: other flows are quick meanwhile, the supervisor is small, and
// each that had an answer is in the audit's sums.
func TestD14QuestionsLeaveOtherFlowsAlone(t *testing.T) {
	const rate, seconds = 50000, 10
	b := harness.New(t)
	a4, echo := b.V4(t, "api.allowed.test").String(), port(loadPort)
	b.Stand(t, loadPort, plainEcho)
	script := fmt.Sprintf("P=%s; $P dns udp 10.200.0.1:53 A api.allowed.test; echo measured; read go; $P press 10.200.0.1:53 %d %d press.evil.test & read go; $P trips 50 %s:%s; "+
		"$P dns udp 10.200.0.1:53 A git.allowed.test; echo end; wait; echo over; read go", harness.Probe, rate, seconds, a4, echo)
	cmd, name := b.SandboxCommand(harness.Allow("api.allowed.test", "git.allowed.test", "api.allowed.test:"+echo), "sh", "-c", script)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := b.Start(cmd)
	p.Name = name
	p.WaitFor("measured")
	before := peakMemory(t, p.Cmd.Process.Pid)
	fmt.Fprintln(in, "press")
	p.WaitFor("pressing")
	other := b.StartSandbox(harness.Allow("api.allowed.test", "api.allowed.test:"+echo), "sh", "-c", // another session's
		fmt.Sprintf("%[1]s dns udp 10.200.0.1:53 A api.allowed.test; %[1]s trips 20 %[2]s:%[3]s", harness.Probe, a4, echo))
	fmt.Fprintln(in, "measure")
	p.WaitFor("end\n")
	beside := other.Wait().Must(t, 0)
	if strings.Contains(p.Output(), "over") || strings.Contains(p.Output(), `"op":"press"`) {
		t.Fatalf("the questions were over before the flows were measured: %s", p.Output())
	}
	p.WaitFor("over")
	grown := peakMemory(t, p.Cmd.Process.Pid) - before
	fmt.Fprintln(in, "end")
	r := p.Wait()
	t.Logf("%s\nmemory %d KiB, and %d KiB more", r.Stdout, before, grown)
	if grown > 100<<10 {
		t.Errorf("the supervisor has held %d KiB more", grown)
	}
	pressed(t, b, r, rate)
	for _, l := range beside.Lines(t) {
		var old, fresh int
		if _, err := fmt.Sscan(l.Data, &old, &fresh); !l.OK || l.Op == "trips" && (err != nil || old > otherFlows || fresh > otherFlows) {
			t.Errorf("another session: %+v", l)
		}
	}
	if b.DNS.Asked("press.evil.test") {
		t.Error("a denied question left")
	}
}

// pressed judges what the probe tells of a flood of questions and of the flows
// beside it, against the audit.
func pressed(t *testing.T, b *harness.Bed, r harness.Result, rate int) {
	t.Helper()
	old, fresh, longest, sent, refused, answered, ms, counted := -1, -1, [2]int{}, 0, 0, 0, 1, 0
	for _, l := range r.Lines(t) {
		if !l.OK {
			t.Errorf("%+v", l)
		}
		switch l.Op {
		case "trips":
			fmt.Sscan(l.Data, &old, &fresh, &longest[0], &longest[1])
		case "press":
			fmt.Sscan(l.Data, &sent, &refused, &answered, &ms)
		}
	}
	if old < 0 || old > otherFlows || fresh > otherFlows {
		t.Errorf("other flows: %d ms for a round trip, %d ms for a new one", old, fresh)
	}
	if lost := 1000; longest[0] >= lost || longest[1] >= lost { // the first wait for an answer to a SYN
		t.Errorf("packets of other flows are lost: %d ms for a round trip, %d ms for a new one at worst", longest[0], longest[1])
	}
	if reached := (sent - refused) * 1000 / ms; reached < rate/2 {
		t.Errorf("%d questions a second is no load: %d were meant", reached, rate)
	}
	for _, e := range b.Events(t, r.Name) {
		if e.Layer == "dns" && (e.Denied() || e.Event == "limit" || e.Event == "overflow") {
			counted += max(e.Count, 1)
		}
	}
	if counted < answered || answered == 0 {
		t.Errorf("%d questions were answered, and the audit tells of %d", answered, counted)
	}
}

func (c burden) run(t *testing.T, b *harness.Bed, a4 string) {
	echo := port(loadPort)
	load := fmt.Sprintf("$P load %s %d %s & ", c.kind, c.count, c.to)
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
	if !harness.Eventually(3*harness.Patience, func() bool { return strings.Contains(p.Output(), "loaded ") }) {
		t.Fatalf("not loaded: %s", p.Output())
	}
	fmt.Fprintln(in, "measure")
	p.WaitFor("end")
	flows := b.Start(b.Program("curl", "-sS", "--unix-socket", b.Runtime+"/outcall/"+name+"/host.sock", "http://localhost/api/v1/flows")).Wait().Must(t, 0)
	if n := strings.Count(flows.Stdout, `"id":"`); n < c.count {
		t.Errorf("of %d flows %d stood all the time", c.count, n)
	}
	grown := peakMemory(t, p.Cmd.Process.Pid) - before
	threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.Cmd.Process.Pid))
	t.Logf("%s\nmemory %d KiB, and %d KiB more; %d threads", p.Output(), before, grown, len(threads))
	if grown > c.kib {
		t.Errorf("the supervisor has held %d KiB more, at most %d", grown, c.kib)
	}
	if len(threads) > 200 {
		t.Errorf("%d threads", len(threads))
	}
	old, fresh := -1, -1
	for _, l := range (harness.Result{Stdout: p.Output()}).Lines(t) {
		switch {
		case l.Op == "trips" && !l.OK, l.Op == "load":
			t.Errorf("%+v", l)
		case l.Op == "trips":
			fmt.Sscan(l.Data, &old, &fresh)
		}
	}
	if old < 0 || old > otherFlows || fresh > otherFlows {
		t.Errorf("other flows: %d ms for a round trip, %d ms for a new one", old, fresh)
	}
	if got := p.Output(); !strings.Contains(got, fmt.Sprintf("loaded %d failed 0", c.count)) {
		t.Errorf("not all stand: %s", got)
	}
}
