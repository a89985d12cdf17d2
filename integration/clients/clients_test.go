//go:build clients

package clients

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"outcall/integration/harness"
)

var outcall string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("/var/tmp", "clients-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		err = harness.Build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "clients:", err)
		os.Exit(1)
	}
	outcall = filepath.Join(dir, "outcall")
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// agentID owns the work directory where the caller is root, so that the
// client runs as an ordinary user.
const agentID = 1777

// configured asks a client for its own configuration.
func configured(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).Output()
	if err != nil {
		t.Fatalf("%v: %v (the client must be installed)", argv, err)
	}
	return strings.TrimSpace(string(out))
}

// allow writes the rule file for the hosts. Where the machine's resolver
// answers with a private address (a mirror of the site's own), the rule says
// allow_private_ips, as its user would have to.
func allow(t *testing.T, dir string, hosts ...string) string {
	t.Helper()
	text := "version: \"1\"\nrules:\n"
	for i, h := range hosts {
		text += fmt.Sprintf("  - id: registry-%d\n    condition: 'dns.query == %[2]q || network.hostname == %[2]q'\n    action: allow\n", i, h)
		ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", h)
		stop()
		if err != nil {
			t.Fatalf("the registry's name: %v", err)
		}
		if notGlobal(addrs) {
			text += "    egress: {mode: proxy, allow_private_ips: true}\n"
		}
	}
	file := filepath.Join(dir, "registry.yaml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// notGlobal tells whether an address needs allow_private_ips.
func notGlobal(addrs []netip.Addr) bool {
	for _, a := range addrs {
		a = a.Unmap()
		if a.IsPrivate() {
			return true
		}
		for _, p := range []string{"100.64.0.0/10", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "198.18.0.0/15", "2001:db8::/32"} {
			if netip.MustParsePrefix(p).Contains(a) {
				return true
			}
		}
	}
	return false
}

func run(t *testing.T, hosts []string, env []string, argv ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "client-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { exec.Command("chmod", "-R", "u+w", dir).Run(); os.RemoveAll(dir) })
	rules := allow(t, dir, hosts...)
	work := filepath.Join(dir, "work")
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(work, agentID, agentID); err != nil {
			t.Fatal(err)
		}
	}
	audit := filepath.Join(dir, "audit", "audit.jsonl") // a directory of nobody else's
	if err := os.Mkdir(filepath.Dir(audit), 0o700); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"run", "-q", "--audit", audit, "--rules", rules}, env...)
	cmd := exec.CommandContext(t.Context(), outcall, append(append(args, "--"), argv...)...)
	cmd.Dir = work
	cmd.Env = append(os.Environ(), "SUDO_UID=", "SUDO_GID=")
	out, err := cmd.CombinedOutput()
	if err != nil {
		lines, _ := os.ReadFile(audit)
		t.Errorf("%v: %v\n%s\naudit:\n%s", argv, err, out, lines)
	}
	return string(out)
}

func host(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" {
		t.Fatalf("no registry in %q", address)
	}
	return u.Hostname()
}

func TestNPMView(t *testing.T) {
	registry := configured(t, "npm", "config", "get", "registry")
	out := run(t, []string{host(t, registry)}, []string{"-e", "npm_config_registry=" + registry, "-e", "npm_config_cache=./cache"}, "npm", "view", "npm", "version")
	if !strings.Contains(out, ".") {
		t.Errorf("npm view printed %q", out)
	}
}

func TestGoModDownload(t *testing.T) {
	proxy := strings.FieldsFunc(configured(t, "go", "env", "GOPROXY"), func(r rune) bool { return r == ',' || r == '|' })[0]
	gobin := filepath.Join(configured(t, "go", "env", "GOROOT"), "bin", "go")
	out := run(t, []string{host(t, proxy)}, []string{"-e", "GOPROXY=" + proxy, "-e", "GONOSUMDB=*", "-e", "GONOSUMCHECK=1", "-e", "GOFLAGS=-mod=mod"},
		"sh", "-c", `export HOME=$PWD GOPATH=$PWD/go GOMODCACHE=$PWD/mod GOCACHE=$PWD/cache; `+gobin+` mod download -json golang.org/x/term@v0.47.0`)
	if !strings.Contains(out, `"Version": "v0.47.0"`) {
		t.Errorf("go mod download printed %q", out)
	}
}

func TestAptGetDownload(t *testing.T) {
	hosts := map[string]bool{}
	for line := range strings.Lines(configured(t, "apt-get", "indextargets", "--format", "$(REPO_URI)")) {
		hosts[host(t, strings.TrimSpace(line))] = true
	}
	var list []string
	for h := range hosts {
		list = append(list, h)
	}
	out := run(t, list, nil, "sh", "-c", "apt-get download less && ls")
	if !strings.Contains(out, ".deb") {
		t.Errorf("apt-get download printed %q", out)
	}
}
