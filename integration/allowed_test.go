package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"outcall/integration/harness"
	"outcall/integration/world"
)

const apiBody = "origin api.allowed.test /\n"

func TestAllowedByName(t *testing.T) {
	b := harness.New(t)
	for name, c := range map[string]struct {
		flags []string
		url   string
		more  []string
		want  string
	}{
		"https":             {nil, "https://api.allowed.test/", nil, apiBody},
		"http":              {nil, "http://api.allowed.test/", nil, apiBody},
		"https no proxy":    {[]string{"--no-proxy"}, "https://api.allowed.test/", nil, apiBody},
		"http no proxy":     {[]string{"--no-proxy"}, "http://api.allowed.test/", nil, apiBody},
		"proxy ignored":     {nil, "https://api.allowed.test/", []string{"--noproxy", "*"}, apiBody},
		"http/1.1":          {[]string{"--no-proxy"}, "https://api.allowed.test/", []string{"--http1.1"}, apiBody},
		"ipv4":              {[]string{"--no-proxy"}, "https://api.allowed.test/", []string{"-4"}, apiBody},
		"ipv6":              {[]string{"--no-proxy"}, "https://api.allowed.test/", []string{"-6"}, apiBody},
		"tunnelled http":    {nil, "http://api.allowed.test/", []string{"-p"}, apiBody},
		"packet link named": {[]string{"--link", "packet"}, "https://api.allowed.test/", nil, apiBody},
	} {
		t.Run(name, func(t *testing.T) {
			r := b.Sandbox(append(harness.Allow("api.allowed.test"), c.flags...), curl(append(c.more, c.url)...)...).Must(t, 0)
			if r.Stdout != c.want || r.Stderr != "" {
				t.Errorf("stdout %q, stderr %q", r.Stdout, r.Stderr)
			}
		})
	}
}

func TestAllowedIPv6Only(t *testing.T) {
	b := harness.New(t)
	r := b.Sandbox(harness.Allow("six.allowed.test"), curl("https://six.allowed.test/")...).Must(t, 0)
	mustContain(t, "body", r.Stdout, "origin six.allowed.test /")
}

func TestAllowedHostWithoutIPv6Route(t *testing.T) {
	b := harness.New(t)
	b.WithoutIPv6(t)
	for _, flag := range []string{"--no-proxy", "-q"} {
		r := b.Sandbox(append(harness.Allow("api.allowed.test"), flag), curl("https://api.allowed.test/")...).Must(t, 0)
		if r.Stdout != apiBody {
			t.Errorf("%s: %q", flag, r.Stdout)
		}
	}
	r := b.Sandbox([]string{"--allow", "api.allowed.test"}, "true").Must(t, 0)
	mustContain(t, "banner", r.Stderr, "IPv4")
}

func TestAllowedCNAME(t *testing.T) {
	b := harness.New(t)
	r := b.Sandbox(harness.Allow("www.allowed.test"), curl("https://www.allowed.test/")...).Must(t, 0)
	mustContain(t, "body", r.Stdout, "origin www.allowed.test /")
}

func TestAllowedRawPortServerSpeaksFirst(t *testing.T) {
	b := harness.New(t)
	for _, p := range []uint16{22, b.Ports.Greet} {
		_, lines := b.Attempts(append(harness.Allow("git.allowed.test:"+port(p)), "--no-proxy"), "tcp", "", "git.allowed.test:"+port(p))
		if !lines[0].OK || lines[0].Data != world.Greeting {
			t.Errorf("port %d: %+v", p, lines[0])
		}
		if lines[0].MS > 500 {
			t.Errorf("port %d: the greeting took %.0f ms", p, lines[0].MS)
		}
	}
}

func TestAllowedEmptyHomeAndReadOnlyDirectory(t *testing.T) {
	b := harness.New(t)
	empty := filepath.Join(b.Home, "empty")
	readOnly := filepath.Join(b.Home, "ro")
	for _, d := range []string{empty, readOnly} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(readOnly, 0o555); err != nil {
		t.Fatal(err)
	}
	b.Setenv("HOME=" + empty)
	cmd, _ := b.SandboxCommand(harness.Allow("api.allowed.test"), curl("https://api.allowed.test/")...)
	cmd.Dir = readOnly
	if r := b.Start(cmd).Wait().Must(t, 0); r.Stdout != apiBody {
		t.Errorf("%q", r.Stdout)
	}
}

func TestAllowedWithoutRuntimeDirectory(t *testing.T) {
	b := harness.New(t)
	b.Setenv("XDG_RUNTIME_DIR")
	r := b.Sandbox(harness.Allow("api.allowed.test"), curl("https://api.allowed.test/")...).Must(t, 0)
	if r.Stdout != apiBody {
		t.Errorf("%q", r.Stdout)
	}
	dir := fmt.Sprintf("/tmp/outcall-%d", os.Getuid())
	if st, err := os.Stat(dir); err == nil && st.Mode().Perm() != 0o700 {
		t.Errorf("%s has mode %o", dir, st.Mode().Perm())
	}
	os.Remove(dir)
}

func TestAllowedInsideUserNamespace(t *testing.T) {
	b := harness.New(t)
	args := append([]string{"-Urm", harness.Outcall, "run", "--name", b.NewName()}, harness.Allow("api.allowed.test")...)
	args = append(append(args, "--"), curl("https://api.allowed.test/")...)
	if world.As() == "root" {
		// That namespace has no other id that the command could be given, and
		// no right to enter a directory of another user.
		r := b.Start(b.Program("sh", append([]string{"-c", `cd / && exec unshare "$@"`, "sh"}, args...)...)).Wait()
		if r.Must(t, 125); !strings.Contains(r.Stderr, "--as-root") || r.Stdout != "" {
			t.Errorf("standard output %q, error %q", r.Stdout, r.Stderr)
		}
		return
	}
	if r := b.Start(b.Program("unshare", args...)).Wait().Must(t, 0); r.Stdout != apiBody {
		t.Errorf("%q", r.Stdout)
	}
}

func TestAllowedTwiceInParallel(t *testing.T) {
	b := harness.New(t)
	var procs []*harness.Proc
	for range 2 {
		procs = append(procs, b.StartSandbox(harness.Allow("api.allowed.test"), curl("https://api.allowed.test/")...))
	}
	for _, p := range procs {
		if r := p.Wait().Must(t, 0); r.Stdout != apiBody {
			t.Errorf("%q", r.Stdout)
		}
	}
}

func TestAllowedOriginsOwnCertificate(t *testing.T) {
	b := harness.New(t)
	_, lines := b.Attempts(append(harness.Allow("api.allowed.test"), "--no-proxy"), "tls", "api.allowed.test", "api.allowed.test:443")
	if !lines[0].OK || lines[0].Data != "api.allowed.test" {
		t.Errorf("%+v", lines[0])
	}
}

func TestAllowedAuditLines(t *testing.T) {
	b := harness.New(t)
	r := b.Sandbox(append(harness.Allow("api.allowed.test"), "--no-proxy"), curl("https://api.allowed.test/", "-4")...).Must(t, 0)
	count := map[string]int{}
	ends := map[string]bool{}
	ids := map[string]bool{}
	for _, e := range b.Events(t, r.Name) {
		count[e.Event+" "+e.Layer+" "+e.Verdict]++
		if e.Event == "end" {
			ends[e.ID] = true
			if e.BytesIn == 0 || e.BytesOut == 0 {
				t.Errorf("an end without bytes: %s", e)
			}
		}
		if e.Event == "verdict" && e.Layer == "flow" {
			ids[e.ID] = true
			if e.Process == nil || !strings.HasSuffix(e.Process.Exe, "/curl") {
				t.Errorf("no process: %s", e)
			}
		}
	}
	if count["verdict flow allow"] != 1 || count["start  "] != 1 || count["stop  "] != 1 {
		t.Errorf("events: %v", count)
	}
	for id := range ids {
		if !ends[id] {
			t.Errorf("flow %s has no end", id)
		}
	}
	if v := b.Outcall("log", "verify", b.AuditFile(r.Name)); v.Code != 0 {
		t.Errorf("log verify: %d %s", v.Code, v.Stderr)
	}
}

func TestTransfers(t *testing.T) {
	const size = int64(1 << 30)
	if testing.Short() {
		t.Skip("-short: 1 GiB each way")
	}
	b := harness.New(t)
	flags := append(harness.Allow("api.allowed.test"), "--no-proxy")
	r := b.Sandbox(flags, "sh", "-c", fmt.Sprintf("curl -sS 'http://api.allowed.test/bytes?n=%d' | sha256sum", size)).Must(t, 0)
	if got := strings.Fields(r.Stdout)[0]; got != world.BytesSum(size) {
		t.Errorf("download: sum %s", got)
	}
	script := fmt.Sprintf("head -c %d /dev/zero | curl -sS -T - http://api.allowed.test/sum", size)
	r = b.Sandbox(flags, "sh", "-c", script).Must(t, 0)
	const zeros = "49bc20df15e412a64472421e13fe86ff1c5165e18b2afccf160d4dc19fe68a14"
	if want := fmt.Sprintf("%d %s\n", size, zeros); r.Stdout != want {
		t.Errorf("upload: %q", r.Stdout)
	}
}

func TestManyParallelRequests(t *testing.T) {
	b := harness.New(t)
	script := `for i in $(seq 200); do curl -sS --max-time 60 -o /dev/null -w '%{http_code}\n' https://api.allowed.test/$i & done; wait`
	r := b.Sandbox(append(harness.Allow("api.allowed.test"), "--no-proxy"), "sh", "-c", script).Must(t, 0)
	if n := strings.Count(r.Stdout, "200\n"); n != 200 {
		t.Errorf("%d of 200 answered\n%s", n, r.Stderr)
	}
}

func TestWebSocketAndLocalServer(t *testing.T) {
	b := harness.New(t)
	_, lines := b.Attempts(append(harness.Allow("api.allowed.test"), "--no-proxy"), "ws", "ws://api.allowed.test/ws", "2s")
	if !lines[0].OK || lines[0].Data != "still here" {
		t.Errorf("WebSocket: %+v", lines[0])
	}
	for _, addr := range []string{"localhost:3000", "127.0.0.1:80"} {
		_, lines = b.Attempts(harness.Allow("api.allowed.test"), "serve", addr)
		if !lines[0].OK || lines[0].Data != "served" {
			t.Errorf("server on %s: %+v", addr, lines[0])
		}
	}
	_, lines = b.Attempts(allowAPI, "icmp", "hello", "127.0.0.1")
	if !lines[0].OK {
		t.Errorf("ping localhost: %+v", lines[0])
	}
}
