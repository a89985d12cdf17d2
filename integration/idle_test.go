package integration

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// silence is longer than all waits that the program with short ones has left
// for a connection: HTTP between two requests 5 s, the first flight 10 s. To the
// released one, ten minutes are the same: twice its longest. It sees a dozen
// probes of a second each, where ten minutes see about ten.
const silence = "12s"

// A WebSocket and a tunnel may be silent for as long as they like, by every
// way: transparent, through CONNECT, inside TLS. Meanwhile both peers are asked
// whether they still live.
func TestSilentConnections(t *testing.T) {
	b := harness.New(t)
	const name = "api.allowed.test"
	echo := port(b.Ports.Echo)
	ways := []string{
		"tcp - " + name + ":" + echo, "tcp 10.200.0.1:8080 " + name + ":" + echo, "ws - " + name + ":80", "ws 10.200.0.1:8080 " + name + ":80",
		"wss - " + name + ":443", "wss 10.200.0.1:8080 " + name + ":443", "tcp - [" + b.V6(t, name).String() + "]:" + echo,
	}
	script := harness.Probe + " dns udp 10.200.0.1:53 AAAA " + name + "\n"
	for _, w := range ways {
		script += harness.Probe + " idle " + w + " " + silence + " &\n"
	}
	session := b.NewName()
	flags := append([]string{"run", "--name", session}, harness.Allow(name, name+":"+echo)...)
	p := b.Start(b.Program(harness.OutcallShort, append(flags, "--", "sh", "-c", script+"wait")...))
	harness.MustEventually(t, harness.Patience, "all are silent", func() bool { return strings.Count(p.Output(), "silent ") == len(ways) })
	m := b.Mark()
	file := b.Home + "/silent.pcap"
	c := b.Start(b.Command("--session", session, "bridge", "capture", "-w", file))
	waitError(t, c, capturing)
	r := p.Wait().Must(t, 0)
	c.Wait().Must(t, 0) // it ends with the session
	for _, l := range r.Lines(t)[1:] {
		if !l.OK || l.Data != "still here\n" {
			t.Errorf("%s: %+v", l.Target, l)
		}
	}
	probedOutside(t, b.Since(t, m), len(ways))
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	probedInside(t, readCapture(t, raw), len(ways))
}

// fewest is how many probes must be seen: the machine may be busy, and the
// capture begins when the silence already has.
const fewest = 3

// probedOutside demands that every connection to an origin was probed before
// it carried anything again.
func probedOutside(t *testing.T, frames []world.Frame, flows int) {
	t.Helper()
	probes, spoke := map[netip.AddrPort]int{}, map[netip.AddrPort]bool{}
	for _, f := range frames {
		if f.Proto != "tcp" {
			continue
		}
		switch {
		case len(f.Payload) > 0:
			spoke[f.Src] = true
		case f.Flags == flagACK && !spoke[f.Src]:
			probes[f.Src]++
		}
	}
	demandProbes(t, "origin", probes, spoke, flows)
}

// probedInside demands the same of the agent's side.
func probedInside(t *testing.T, frames []captured, flows int) {
	t.Helper()
	probes, spoke := map[netip.AddrPort]int{}, map[netip.AddrPort]bool{}
	for _, f := range frames {
		agent := f.dst
		toAgent := f.dst.Addr() == agent4 || f.dst.Addr() == agent6
		if !toAgent {
			agent = f.src
		}
		switch {
		case f.proto != 6:
		case f.data > 1: // a probe may carry one octet that the peer has had
			spoke[agent] = true
		case toAgent && f.flags == flagACK && !spoke[agent]:
			probes[agent]++
		}
	}
	demandProbes(t, "agent", probes, spoke, flows)
}

func demandProbes(t *testing.T, side string, probes map[netip.AddrPort]int, spoke map[netip.AddrPort]bool, flows int) {
	t.Helper()
	if len(spoke) != flows {
		t.Errorf("%s: %d connections spoke again, not %d: %v", side, len(spoke), flows, spoke)
	}
	for c := range spoke {
		if probes[c] < fewest {
			t.Errorf("%s: the connection of %s was probed %d times: %s", side, c, probes[c], fmt.Sprint(probes))
		}
	}
}
