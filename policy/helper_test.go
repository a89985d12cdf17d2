package policy

import (
	"net/netip"
	"os"
	"strings"
	"testing"
)

// size is how many cases a property test takes: all with FULL=1 (make
// property), which is minutes on a machine with nothing else to do; a part of
// them otherwise.
func size(t testing.TB, all int) int {
	switch {
	case os.Getenv("FULL") == "1":
		return all
	case testing.Short():
		return all / 50
	}
	return all / 10
}

// mustLoad compiles one operator's file.
func mustLoad(t testing.TB, yaml string) *Snapshot {
	t.Helper()
	s, err := Load([]Source{{Path: "test.yaml", Data: []byte(yaml)}})
	if err != nil {
		t.Fatalf("Load: %v\n%s", err, yaml)
	}
	return s
}

// rules writes "allow COND" and "block COND" lines as a rule file.
func rules(t testing.TB, lines ...string) *Snapshot {
	t.Helper()
	return mustLoad(t, ruleYAML(lines...))
}

func ruleYAML(lines ...string) string {
	var b strings.Builder
	b.WriteString("version: \"1\"\nrules:\n")
	for i, l := range lines {
		action, cond, _ := strings.Cut(l, " ")
		egress := ""
		if cond, egress, _ = strings.Cut(cond, " @ "); egress != "" {
			egress = "\n    egress: {" + egress + "}"
		}
		b.WriteString("  - id: r" + string(rune('0'+i)) + "\n    action: " + action +
			"\n    condition: '" + strings.ReplaceAll(cond, "'", "''") + "'" + egress + "\n")
	}
	return b.String()
}

var who = Who{Agent: "claude", Session: "claude-a1"}

func dnsFacts(name, typ string) *Facts {
	f := NewFacts(LayerDNS, who)
	f.SetQuestion(name, typ)
	return f
}

func flowFacts(addr string, port uint16, proto Proto) *Facts {
	f := NewFacts(LayerFlow, who)
	f.SetAddr(netip.MustParseAddr(addr), port, proto)
	return f
}

func helloFacts(addr string, port uint16, sni string) *Facts {
	f := NewFacts(LayerHello, who)
	f.SetAddr(netip.MustParseAddr(addr), port, TCP)
	f.SetHello(TLS{SNI: sni, ALPN: []string{"h2"}, Version: "1.3"})
	return f
}

func requestFacts(addr string, port uint16, h HTTP) *Facts {
	f := NewFacts(LayerRequest, who)
	f.SetAddr(netip.MustParseAddr(addr), port, TCP)
	_, err := netip.ParseAddr(h.Host)
	f.SetRequest(h, err == nil)
	return f
}

func rawFacts(addr string, port uint16, proto Proto, name string) *Facts {
	f := NewFacts(LayerRaw, who)
	f.SetAddr(netip.MustParseAddr(addr), port, proto)
	f.SetName(name)
	return f
}

func connectFacts(host string, port uint16, addr string) *Facts {
	f := NewFacts(LayerConnect, who)
	var a netip.Addr
	if addr != "" {
		a = netip.MustParseAddr(addr)
	}
	f.SetAddr(a, port, TCP)
	_, err := netip.ParseAddr(host)
	f.SetConnect(host, err == nil)
	return f
}
