package policy

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"outcall/policy/preset"
)

var presetNames = []string{"anthropic", "crates", "debian", "docker-hub", "github", "gitlab", "golang", "google-ai",
	"huggingface", "maven", "npm", "openai", "pypi", "ubuntu"}

// Each preset is dated, tells a source before each rule, and is written so
// that Hosts sees every rule.
func TestPresetFiles(t *testing.T) {
	if got := preset.Names(); !slices.Equal(got, presetNames) {
		t.Errorf("presets %v, want %v", got, presetNames)
	}
	for _, name := range preset.Names() {
		text, err := preset.Text(name)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(text), "\n")
		if lines[0] != "# preset:"+name {
			t.Errorf("%s: first line %q", name, lines[0])
		}
		if !regexp.MustCompile(`(?m)^# The hosts are as of 20\d\d-\d\d-\d\d\.$`).Match(text) {
			t.Errorf("%s has no date", name)
		}
		rules := 0
		for i, l := range lines {
			if !strings.HasPrefix(l, "  - id: ") {
				continue
			}
			rules++
			if !strings.HasPrefix(l, "  - id: "+name+".") {
				t.Errorf("%s:%d: the id does not begin with the preset's name", name, i+1)
			}
			if !strings.HasPrefix(lines[i-1], "  # https://") {
				t.Errorf("%s:%d: no source stands before the rule", name, i+1)
			}
		}
		hosts, err := preset.Hosts(name)
		if err != nil || len(hosts) != rules || rules == 0 {
			t.Errorf("%s: %d hosts of %d rules, %v", name, len(hosts), rules, err)
		}
	}
	if _, err := preset.Text("nmp"); err == nil || !strings.Contains(err.Error(), "npm") {
		t.Errorf("an unknown preset: %v", err)
	}
}

func loadAllow(t *testing.T, targets ...string) *Snapshot {
	t.Helper()
	src, err := AllowSources(targets)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Load(src)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var testAddr = netip.MustParseAddr("93.184.216.34")

// asked reports whether the preset answers a question for a name.
func answersName(s *Snapshot, name string) bool {
	f := NewFacts(LayerDNS, Who{})
	f.SetQuestion(name, "A")
	return Act(LayerDNS, "", s.Step(f), false) == Answer
}

// reaches reports whether a name is reached over TLS at a port, whatever
// address it has: with its pin, and through CONNECT.
func reaches(s *Snapshot, name string, port uint16) (direct, proxied bool) {
	cands := []Candidate{{Name: name}}
	f := NewFacts(LayerFlow, Who{})
	f.SetAddr(testAddr, port, TCP)
	fl := s.Flow(f, testAddr, cands, nil)
	h := NewFacts(LayerHello, Who{})
	h.SetAddr(testAddr, port, TCP)
	h.SetHello(TLS{SNI: name, Version: "1.3"})
	hello := s.Content(h, testAddr, cands, nil)
	tls := Act(LayerHello, TCP, hello.Outcome, true) == Pass
	direct = Act(LayerFlow, TCP, fl.Outcome, true) != Refuse && tls
	c := NewFacts(LayerConnect, Who{})
	c.SetAddr(testAddr, port, TCP)
	c.SetConnect(name, false)
	fl = s.Content(c, testAddr, cands, nil)
	return direct, Act(LayerConnect, TCP, fl.Outcome, true) != Refuse && tls
}

// neighbours are names that look like a host and are not it.
func neighbours(host string) []string {
	_, parent, _ := strings.Cut(host, ".")
	out := []string{
		"x." + host, "sibling." + parent, "x" + host, host + "x", host + ".evil.test", host + ".test",
		strings.ReplaceAll(host, ".", "-") + ".evil.test", strings.Replace(host, ".", "x", 1),
		"evil.test", host[1:],
	}
	for strings.Contains(parent, ".") {
		out = append(out, parent)
		_, parent, _ = strings.Cut(parent, ".")
	}
	return out
}

// Each preset loads without a warning, allows its own hosts at its own ports,
// and nothing at neighbours of them.
func TestPresetsAllowTheirHostsAlone(t *testing.T) {
	for _, name := range preset.Names() {
		t.Run(name, func(t *testing.T) {
			s := loadAllow(t, "preset:"+name)
			for _, w := range s.Warnings() {
				t.Errorf("warning: %v", w)
			}
			hosts, _ := preset.Hosts(name) // TestPresetFiles
			own := map[string]bool{}
			for _, h := range hosts {
				own[h.Name] = true
				for _, p := range h.Ports {
					own[h.Name+":"+p] = true
				}
			}
			for _, h := range hosts {
				testPresetHost(t, s, h, own)
			}
		})
	}
}

func testPresetHost(t *testing.T, s *Snapshot, h preset.Host, own map[string]bool) {
	if !answersName(s, h.Name) {
		t.Errorf("%s is not resolved", h.Name)
	}
	for _, port := range []uint16{1, 21, 22, 80, 443, 444, 8080, 8443, 65535} {
		want := own[h.Name+":"+strconv.Itoa(int(port))]
		if direct, proxied := reaches(s, h.Name, port); direct != want || proxied != want {
			t.Errorf("%s at port %d: direct %v, CONNECT %v, want %v", h.Name, port, direct, proxied, want)
		}
	}
	for _, n := range neighbours(h.Name) {
		if own[n] {
			continue
		}
		if answersName(s, n) {
			t.Errorf("%s, a neighbour of %s, is resolved", n, h.Name)
		}
		for _, port := range []uint16{22, 80, 443} {
			if direct, proxied := reaches(s, n, port); direct || proxied {
				t.Errorf("%s at port %d, a neighbour of %s, is reached", n, port, h.Name)
			}
		}
	}
	// Its address is not open by itself, and other kinds of questions are not.
	f := NewFacts(LayerFlow, Who{})
	f.SetAddr(testAddr, 443, TCP)
	if fl := s.Flow(f, testAddr, nil, nil); Act(LayerFlow, TCP, fl.Outcome, false) != Refuse {
		t.Errorf("an address without a name is reached: %s", fl.Reason)
	}
	q := NewFacts(LayerDNS, Who{})
	q.SetQuestion(h.Name, "TXT")
	if s.Step(q).Word != Deny {
		t.Errorf("TXT of %s is asked", h.Name)
	}
}

// Presets stand beside other targets; one that is named twice is loaded once,
// and an unknown one is an error that names all.
func TestAllowPreset(t *testing.T) {
	s := loadAllow(t, "a.test", "preset:npm", "preset:npm", "b.test:22")
	var ids []string
	for _, r := range s.Rules() {
		ids = append(ids, r.ID)
		if r.Origin != CLI {
			t.Errorf("rule %s has origin %v", r.ID, r.Origin)
		}
	}
	if want := []string{"cli-1", "cli-4", "npm.registry.npmjs.org"}; !slices.Equal(ids, want) {
		t.Errorf("rules %v, want %v", ids, want)
	}
	if _, err := AllowTargets([]string{"preset:nmp"}); err == nil || !strings.Contains(err.Error(), "pypi") {
		t.Errorf("an unknown preset: %v", err)
	}
	for _, bad := range []string{"preset:", "preset:../npm", "preset:npm.yaml", "preset:NPM"} {
		if _, err := AllowSources([]string{bad}); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// A denial of a host that a preset holds names that preset, where the preset
// would help; each such remedy can be followed.
func TestRemedyNamesPreset(t *testing.T) {
	for _, name := range preset.Names() {
		hosts, _ := preset.Hosts(name) // TestPresetFiles
		for _, h := range hosts {
			for _, target := range []string{h.Name, h.Name + ":" + h.Ports[0]} {
				got := Remedy(target, DefaultPolicy, false)
				if !strings.HasSuffix(got, ", or all of its kind: --allow preset:"+name) {
					t.Errorf("Remedy(%q) = %q: preset:%s is not named", target, got, name)
				}
			}
			for _, c := range []string{
				Remedy(h.Name+":7", DefaultPolicy, false), Remedy(h.Name, DefaultPolicy, true),
				Remedy(h.Name, "some-block", false), Remedy("x."+h.Name, DefaultPolicy, false),
			} {
				if strings.Contains(c, "preset:") {
					t.Errorf("%q names a preset that would not help", c)
				}
			}
		}
	}
}
