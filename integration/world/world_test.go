package world_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"outcall/integration/world"
)

func TestMain(m *testing.M) { world.Main(m) }

func TestOrdinaryUser(t *testing.T) {
	if world.As() == "root" {
		t.Skip("not for real root")
	}
	out, err := world.Command("/bin/sh", "-c", "id -u; grep -E '^Cap(Eff|Prm|Inh|Amb)' /proc/self/status; stat -c %u /proc/sys/kernel/core_pattern").CombinedOutput()
	if err != nil {
		t.Fatal(err, string(out))
	}
	lines := strings.Fields(string(out))
	if lines[0] == "0" {
		t.Error("children of the tests run as uid 0")
	}
	if strings.Contains(string(out), "CapEff:\t0000000000000000") == false {
		t.Errorf("children of the tests have capabilities:\n%s", out)
	}
	if last := lines[len(lines)-1]; last != "65534" {
		t.Errorf("core_pattern belongs to %s: real root is visible", last)
	}
}

func TestNamesAndOrigins(t *testing.T) {
	w := world.New(t)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.CA.Pool()}}, Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	for _, url := range []string{
		"https://api.allowed.test/a?b", "http://api.allowed.test/x", "https://www.allowed.test/",
		"https://six.allowed.test/", "https://four.allowed.test:" + strconv.Itoa(int(w.Ports.HTTPS)) + "/",
		"https://[" + w.V6(t, "evil.test").String() + "]/",
	} {
		r, err := client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if !strings.HasPrefix(string(b), "origin ") {
			t.Errorf("%s: %q", url, b)
		}
	}
	if !w.DNS.Asked("api.allowed.test") || w.DNS.Asked("evil") {
		t.Error("the resolver's log is wrong")
	}
	if n := len(w.Origins.Requests()); n != 6 {
		t.Errorf("%d requests in the log", n)
	}
	if _, err := net.LookupHost("missing.allowed.test"); err == nil {
		t.Error("an unknown name was answered")
	}
}

func TestEchoAndGreeting(t *testing.T) {
	w := world.New(t)
	for _, a := range w.AddrsOf("git.allowed.test") {
		for _, network := range []string{"tcp", "udp"} {
			c, err := net.DialTimeout(network, net.JoinHostPort(a.String(), strconv.Itoa(int(w.Ports.Echo))), 2*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			c.SetDeadline(time.Now().Add(2 * time.Second))
			c.Write([]byte("hello"))
			b := make([]byte, 5)
			if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
				t.Errorf("%s echo at %s: %q, %v", network, a, b, err)
			}
			c.Close()
		}
		c, err := net.DialTimeout("tcp", net.JoinHostPort(a.String(), "22"), 2*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, len(world.Greeting))
		io.ReadFull(c, b)
		c.Close()
		if string(b) != world.Greeting {
			t.Errorf("greeting %q", b)
		}
	}
}

func TestCaptureSeesEverything(t *testing.T) {
	w := world.New(t)
	quiet := w.Canary(t)
	quiet.MustNotArrive(t)
	targets := []string{"8.8.8.8:54", "[2001:4860:4860::8888]:54", "169.254.169.254:80", "10.1.2.3:9", "172.17.0.1:1", "100.64.0.1:7"}
	for _, to := range targets {
		k, m := w.Canary(t), w.Mark()
		c, err := net.Dial("udp", to)
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte(strings.ToUpper(k.Word)))
		c.Close()
		k.MustArrive(t)
		if got := w.Since(t, m); len(got) == 0 || got[0].Dst.String() != to {
			t.Errorf("%s: captured %v", to, got)
		}
	}
	m := w.Mark()
	if c, err := net.DialTimeout("tcp", "93.184.216.34:4", time.Second); err == nil {
		c.Close()
		t.Error("a closed port answered")
	}
	const syn = 2
	got := w.Since(t, m)
	if !slices.ContainsFunc(got, func(f world.Frame) bool { return f.Dst.Port() == 4 && f.Flags == syn }) {
		t.Errorf("the SYN was not captured: %v", got)
	}
}

func TestEveryResolverAnswers(t *testing.T) {
	w := world.New(t)
	for _, server := range []string{"8.8.8.8:53", "[2001:4860:4860::8888]:53", netip.AddrPortFrom(w.Resolver6, 53).String()} {
		for _, network := range []string{"udp", "tcp"} {
			c := dns.Client{Net: network, Timeout: 2 * time.Second}
			r, _, err := c.Exchange(new(dns.Msg).SetQuestion("api.allowed.test.", dns.TypeAAAA), server)
			if err != nil || len(r.Answer) != 1 {
				t.Errorf("%s/%s: %v %v", server, network, r, err)
			}
		}
	}
}

func TestWithoutIPv6(t *testing.T) {
	w := world.New(t)
	w.WithoutIPv6(t)
	if c, err := net.Dial("udp", "[2606:2800:220:1::1]:9"); err == nil {
		c.Close()
		t.Error("there is an IPv6 route still")
	}
}

func TestPrivateView(t *testing.T) {
	if e, err := os.ReadDir("/tmp"); err != nil || len(e) != 0 {
		t.Errorf("/tmp is not empty: %v %v", e, err)
	}
	if os.Getpid() != 2 && os.Getpid() > 20 {
		t.Errorf("pid %d: not in a pid namespace of its own", os.Getpid())
	}
}
