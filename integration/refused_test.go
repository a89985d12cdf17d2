package integration

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// tries is how often each refusal is asked for: the best of them counts, since
// a busy machine makes single ones slow.
const tries = 5

// Everything that the policy does not allow is refused to the client's face,
// not left to time out, by every protocol and family: the best of some tries is
// below the 50 ms, each has its line, and nothing arrives.
func TestEveryRefusalIsPrompt(t *testing.T) {
	b := harness.New(t)
	k := b.Canary(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	loopback := uint16(ln.Addr().(*net.TCPAddr).Port)
	const name = "api.allowed.test"
	api4, api6, evil4, evil6 := b.V4(t, name), b.V6(t, name), b.V4(t, "evil.test"), b.V6(t, "evil.test")
	tcp := map[string][]string{
		"direct address": {at(evil4, 443), at(evil6, 443), "8.8.8.8:443", "[2001:4860:4860::8888]:443"},
		"other port":     {at(api4, 22), at(api6, 22), at(api4, 444), at(api6, 80)},
		"host loopback":  {at(mustAddr("10.200.0.254"), loopback), at(mustAddr("fd0c:a11::fe"), loopback), at(world.HostV4.Addr(), loopback), at(world.HostV6.Addr(), loopback)},
		"gateway ports":  {"10.200.0.1:22", "10.200.0.1:8081", "[fd0c:a11::1]:22", "[fd0c:a11::1]:8081"},
		"neighbours":     {"10.200.0.3:80", "10.200.0.253:80", "[fd0c:a11::3]:80", "[fd0c:a11::ffff]:80"},
		"restricted":     {"169.254.169.254:80", "10.1.2.3:80", "192.168.1.1:80", "100.64.0.1:80", "[fd00:ec2::254]:80"},
	}
	var lines []string
	add := func(words ...string) { lines = append(lines, harness.Probe+" "+strings.Join(words, " ")) }
	for _, targets := range tcp {
		add(append([]string{"tcp", k.Word}, targets...)...)
		add(append([]string{"udp", k.Word}, targets...)...)
	}
	add("udp", k.Word, at(api4, 443), at(api6, 443), "10.200.0.1:8080")
	add("icmp", k.Word, api4.String(), api6.String(), evil4.String(), evil6.String(), "10.200.0.3", "fd0c:a11::3", "10.200.0.254", world.HostV4.Addr().String())
	for _, network := range []string{"udp", "tcp"} {
		for _, server := range []string{"8.8.8.8:53", at(b.Resolver, 53), "[2001:4860:4860::8888]:53", "10.200.0.1:53", "[fd0c:a11::1]:53", "10.200.0.3:53"} {
			add("dns", network, server, "A", k.Word+"."+network+strings.NewReplacer("[", "", "]", "", ":", "-").Replace(server)+".evil.test")
		}
	}
	script := fmt.Sprintf("%[1]s dns udp 10.200.0.1:53 A %[2]s; %[1]s dns udp 10.200.0.1:53 AAAA %[2]s\nfor i in $(seq %[3]d); do\n%[4]s\ndone\n",
		harness.Probe, name, tries, strings.Join(lines, "\n"))
	m := b.Mark()
	r := b.Sandbox(append(harness.Allow(name+":443"), "--no-proxy"), "sh", "-c", script)
	best, seen := map[string]float64{}, map[string]int{}
	for _, l := range r.Lines(t)[2:] {
		what := l.Op + " " + l.Target
		if l.Op == "dns" {
			if !strings.HasPrefix(l.Data, "NXDOMAIN") {
				t.Errorf("%s: %+v", what, l)
			}
		} else if l.OK || strings.Contains(l.Err, "timeout") || l.Errno == 11 {
			t.Errorf("%s: not refused: %+v", what, l)
		}
		if was, ok := best[what]; !ok || l.MS < was {
			best[what] = l.MS
		}
		seen[what]++
	}
	for what, ms := range best {
		if ms > prompt || seen[what] != tries {
			t.Errorf("%s: refused after %.1f ms at best, of %d tries", what, ms, seen[what])
		}
	}
	told := 0
	for _, e := range b.Denials(t, r.Name, nil) {
		told += max(e.Count, 1)
	}
	if want := tries * len(best); told < want {
		t.Errorf("%d attempts were refused, and the audit tells of %d", want, told)
	}
	k.MustNotArrive(t)
	b.MustBeQuiet(t, m, onlyQuestions(b.World))
}

// D5, N10: what is meant for all on the cable is an attempt like any other.
// There can be no answer to it (RFC 1122 section 3.2.2), but it has its line.
func TestD5GroupsAndBroadcasts(t *testing.T) {
	b := harness.New(t)
	k := b.Canary(t)
	m := b.Mark()
	targets := []string{"224.0.0.251:5353", "224.0.0.252:5355", "239.255.255.250:1900", "255.255.255.255:137", "10.200.0.255:137", "[ff02::fb%eth0]:5353", "[ff02::1:3%eth0]:5355", "[ff0e::1]:9"}
	script := ""
	for _, to := range targets { // at once: each waits for an answer in vain
		script += harness.Probe + " udp " + k.Word + " " + to + " &\n"
	}
	r := b.Sandbox(append(harness.Allow("api.allowed.test"), "--no-proxy"), "sh", "-c", script+"wait")
	for _, to := range targets {
		host, port, err := net.SplitHostPort(to)
		if err != nil {
			t.Fatal(err)
		}
		host, _, _ = strings.Cut(host, "%")
		if len(b.Denials(t, r.Name, func(e harness.Event) bool { return e.IP == host && fmt.Sprint(e.Port) == port && e.Protocol == "udp" })) == 0 {
			t.Errorf("no line for %s", to)
		}
	}
	k.MustNotArrive(t)
	b.MustBeQuiet(t, m, nil)
}
