package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"cel.dev/cel-go/common/types"
)

// k11Shapes are the conditions over one field F of each type, of both
// polarities: whatever an unreadable field is taken for, one of them is true.
var k11Shapes = map[types.Kind][]string{
	types.StringKind: {
		`F == "v"`, `F != "v"`, `"v" != F`, `F == ""`, `F != ""`, `F == F`, `F < "v"`, `F >= ""`,
		`F in ["v"]`, `!(F in ["v"])`, `F in []`, `!(F in [])`, `F in [F]`,
		`domain(F, "v")`, `!domain(F, "v")`, `F.endsWith("v")`, `!F.endsWith("v")`, `F.startsWith("")`, `F.contains("")`,
		`has(F)`, `!has(F)`, `size(F) == 0`, `size(F) >= 0`, `F.size() < 99`, `F.matches(".*")`, `!F.matches("^v$")`,
		`[F].exists(x, x == "v")`, `[F].all(x, x != "v")`, `["v"].exists(x, x != F)`, `["v"].all(x, x != F)`,
		`["v"].exists_one(x, x != F)`, `["v"].filter(x, x != F) != []`, `["v"].map(x, x + F) != []`,
		`F.lowerAscii() != "v"`, `F + "w" != "v"`, `F.split(".") != ["v"]`, `dyn(F) != 1`, `{"k": F} != {"k": "v"}`,
		`cidr("0.0.0.0/0").contains(F)`, `!cidr("10.0.0.0/8").contains(F)`, `cidr("::/0").contains(F)`,
	},
	types.IntKind: {
		`F == 7`, `F != 7`, `F == 0`, `F >= 0`, `F < 7`, `F in [7]`, `!(F in [7])`, `!(F in [])`, `has(F)`, `!has(F)`, `F % 2 == 0`, `F - F == 0`,
		`[F].exists(x, x == 7)`, `[F].all(x, x != 7)`, `[7].all(x, x != F)`, `string(F) != "7"`, `double(F) >= 0.0`, `dyn(F) != "7"`,
	},
	types.BoolKind: {
		`F`, `!F`, `F == false`, `F != true`, `F || !F`, `F in [false]`, `!(F in [true])`, `!(F in [])`, `has(F)`, `!has(F)`,
		`[F].exists(x, x)`, `[F].all(x, !x)`, `string(F) != "true"`,
	},
	types.ListKind: {
		`"v" in F`, `!("v" in F)`, `size(F) == 0`, `size(F) >= 0`, `F == []`, `F != ["v"]`, `has(F)`, `!has(F)`,
		`F.exists(x, x == "v")`, `!F.exists(x, x == "v")`, `F.all(x, x != "v")`, `F.exists_one(x, x == "v")`, `!F.exists_one(x, x == "v")`,
		`F.filter(x, x == "v") == []`, `F.map(x, x + "w") != ["vw"]`, `F[0] != "v"`, `F.join(",") != "v"`, `F + ["w"] != []`,
		`["v"].all(x, !(x in F))`,
	},
	types.MapKind: {
		`"k" in F`, `!("k" in F)`, `size(F) == 0`, `size(F) >= 0`, `F == {}`, `F != {"k": "v"}`, `has(F)`, `!has(F)`, `has(F.k)`, `!has(F.k)`,
		`F["k"] != "v"`, `F.k != "v"`, `F.exists(k, F[k] == "v")`, `!F.exists(k, F[k] == "v")`, `F.all(k, k != "k")`, `F.map(k, k) != ["k"]`,
	},
}

// k11Frames are put around each shape: none of them knows more than it does.
var k11Frames = []string{
	`%s`, `!(%s)`, `true && (%s)`, `false || (%s)`, `(%s) || agent.name == "nobody"`, `(%s) && session.name != "nobody"`,
	`(%s) ? true : true`, `(%[1]s) == (%[1]s)`, `["n"].exists(n, n == "n" && (%s))`,
}

// k11Messages are steps that lack as much as their layer can lack, and such as
// lack nothing.
func k11Messages() map[string]*Facts {
	raw := rawFacts(pub, 22, TCP, "")
	run := NewFacts(LayerRun, who)
	run.SetRun(Run{Tool: "bash"})
	call := run.Clone()
	call.SetCall(Call{Host: "a.test", Port: 443, Proto: TCP, Scheme: "https", HTTP: &HTTP{Method: "GET", Path: "/"}})
	bare := NewFacts(LayerHello, who)
	bare.SetAddr(netip.MustParseAddr(pub), 443, TCP)
	bare.SetHello(TLS{})
	named := flowFacts(pub, 443, TCP)
	named.SetName("a.test")
	return map[string]*Facts{
		"dns": dnsFacts("a.test", "A"), "dns HTTPS": dnsFacts("a.test", "HTTPS"),
		"flow": flowFacts(pub, 443, TCP), "flow with a name": named, "flow udp": flowFacts(pub, 443, UDP), "flow icmp": flowFacts(pub, 0, ICMP),
		"hello": helloFacts(pub, 443, "a.test"), "hello without anything": bare,
		"connect": connectFacts("a.test", 443, pub), "connect unresolved": connectFacts("a.test", 443, ""), "connect to an address": connectFacts(pub, 443, pub),
		"request":            requestFacts(pub, 80, HTTP{Host: "a.test", Method: "GET", Path: "/"}),
		"request chunked":    requestFacts(pub, 80, HTTP{Host: "a.test", Method: "PUT", Path: "/", BodySize: -1}),
		"request to address": requestFacts(pub, 80, HTTP{Host: pub, Method: "GET", Path: "/"}),
		"raw":                rawFacts(pub, 22, TCP, "a.test"), "raw without a name": raw, "run": run, "run of a call": call,
	}
}

// k11Rules compiles every condition over a field twice, as an allow and as a
// block.
func k11Rules(t *testing.T, x Field) (allows, blocks []*Rule) {
	t.Helper()
	var b strings.Builder
	b.WriteString("version: \"1\"\nrules:\n")
	n := 0
	frames := k11Frames
	if testing.Short() {
		frames = frames[:2]
	}
	for _, shape := range k11Shapes[fieldTypes[x].Kind()] {
		for _, frame := range frames {
			cond := fmt.Sprintf(frame, strings.ReplaceAll(shape, "F", x.String()))
			fmt.Fprintf(&b, "  - {id: a%d, action: allow, condition: '%s'}\n  - {id: b%d, action: block, condition: '%s'}\n", n, cond, n, cond)
			n++
		}
	}
	if n == 0 {
		t.Fatalf("no conditions for %s", x)
	}
	for _, r := range mustLoad(t, b.String()).Rules() {
		if r.Block {
			blocks = append(blocks, r)
		} else {
			allows = append(allows, r)
		}
	}
	return allows, blocks
}

// K11: over every field at every layer. A rule about a field that the layer
// lacks never becomes an allow, and as a block it is what it would be of the
// empty value, or stops what it cannot see. A known field gives a definite
// answer.
func TestK11EveryFieldAtEveryLayer(t *testing.T) {
	every := rules(t, `allow true`).rules[0]
	messages := k11Messages()
	for x := Field(0); x < NumFields; x++ {
		allows, blocks := k11Rules(t, x)
		for what, f := range messages {
			st := f.State(x)
			empty := f.Clone()
			empty.state[x], empty.val[x] = Known, emptyValues[x]
			for i, r := range allows {
				block := &Snapshot{rules: []*Rule{blocks[i], every}}
				a, b := (&Snapshot{rules: []*Rule{r}}).Step(f).Word, block.Step(f).Word
				wantA, wantB := map[State]Word{Absent: Deny, Hidden: Deny, Later: Open}[st], map[State]Word{Hidden: Deny, Later: Provisional}[st]
				switch st {
				case Absent:
					wantB = block.Step(empty).Word
				case Known:
					wantA, wantB = k11Known(r, f)
				}
				if a != wantA {
					t.Errorf("%s, %s is %s: allow %s gives %s, want %s", what, x, st, r.Condition, a, wantA)
				}
				if b != wantB {
					t.Errorf("%s, %s is %s: block %s before allow true gives %s, want %s", what, x, st, r.Condition, b, wantB)
				}
			}
		}
	}
}

// k11Known are the words of a condition over a known field, as an allow and as
// a block: opposite, and an error is no allow and a block.
func k11Known(r *Rule, f *Facts) (allow, block Word) {
	switch v, _ := r.c.parts[0].eval(f, false); v {
	case yes:
		return Allow, Deny
	case failed:
		return Deny, Deny
	}
	return Deny, Allow
}

// k11True are conditions that are true of the flow in k11Case with everything
// visible, one at least for each field that a flow has.
var k11True = []string{
	`dns.query == "a.test"`, `dns.record_type == "A"`, `network.hostname == "a.test"`, `network.ip == "` + pub + `"`, `cidr("93.184.0.0/16").contains(network.ip)`,
	`network.port == 443`, `network.protocol == "tcp"`, `http.host == "a.test"`, `http.scheme != "gopher"`, `has(http.method)`, `http.path == "/x"`,
	`http.query == "q=1"`, `http.headers["k"] == "v"`, `http.headers.exists(k, k == "k")`, `http.body_size == 7`, `http.body_size > 0`,
	`agent.name == "claude"`, `session.name.startsWith("claude")`, `process.exe == "/x"`, `process.name == "x"`, `process.args.exists(a, a == "-k")`,
	`size(process.args) == 2`, `!(process.name in ["curl", "git"])`, `process.exe != "/usr/bin/git"`,
}

// Those of TLS alone: they are no fact of a plain HTTP request.
var k11TrueTLS = []string{
	`tls.sni == "a.test"`, `tls.sni != "b.test"`, `"h2" in tls.alpn`, `tls.alpn.exists(a, a == "h2")`, `tls.ech`, `tls.version == "1.3"`, `size(tls.alpn) == 1`,
}

// k11Allows stand behind the block: by dns, name, address, grant, and all.
var k11Allows = map[string]string{
	"dns and name": `allow dns.query == "a.test" || network.hostname == "a.test"`, "name": `allow network.hostname == "a.test"`,
	"address": `allow network.ip == "` + pub + `"`, "network": `allow cidr("93.0.0.0/8").contains(network.ip)`,
	"direct_ip": `allow dns.query == "a.test" @ mode: direct_ip, ports: [443]`, "direct_ip and name": `allow dns.query == "a.test" || http.host == "a.test" @ mode: direct_ip`,
	"all": `allow true`,
}

// K11: a block that is true of a flow stops it on every way, whatever is
// visible, and whichever rule behind it would allow.
func TestK11BlockedNeverGetsOut(t *testing.T) {
	c := propCase{name: "a.test", other: "b.test", addr: netip.MustParseAddr(pub), port: 443, proto: TCP,
		head: HTTP{Host: "a.test", Method: "GET", Path: "/x", Query: "q=1", Headers: map[string]string{"k": "v"}, BodySize: 7},
		tls:  TLS{SNI: "a.test", ALPN: []string{"h2"}, ECH: true, Version: "1.3"}}
	visible := &Process{Exe: "/x", Args: []string{"x", "-k"}}
	for by, allow := range k11Allows {
		for i, cond := range append(append([]string{}, k11True...), k11TrueTLS...) {
			layers := []Layer{LayerHello}
			if i < len(k11True) {
				layers = append(layers, LayerRequest)
			}
			s := rules(t, "block "+cond, allow)
			for _, proc := range []*Process{visible, {Exe: "/x"}, nil} {
				c.proc = proc
				for _, l := range layers {
					if _, out := c.transparent(s, l); out {
						t.Errorf("block %s before allow by %s: %s passes transparently (process %v)", cond, by, l, proc)
					}
					// A question of the proxy's own is no dns layer of the agent.
					if c.proxied(s, l) {
						t.Errorf("block %s before allow by %s: %s passes through CONNECT (process %v)", cond, by, l, proc)
					}
				}
			}
		}
	}
	// The proof that without the block each of these allows would let it out.
	c.proc = visible
	for by, allow := range k11Allows {
		s := rules(t, allow)
		_, direct := c.transparent(s, LayerHello)
		fl := s.Flow(c.facts(LayerFlow), c.addr, cand("a.test"), propHost)
		if !direct && Act(LayerFlow, TCP, fl.Outcome, true) == Refuse && !c.proxied(s, LayerHello) {
			t.Errorf("allow by %s alone lets nothing out", by)
		}
	}
}
