package integration

import (
	"net/http"
	"os/exec"
	"testing"

	"outcall/integration/harness"
)

// Programs that people run, each with one --allow. Those that speak with
// registries of the machine are in package clients.
func TestAllowedGitClone(t *testing.T) {
	b := harness.New(t)
	script := `set -e; git init -q src; cd src; echo hello > file; git add file
git -c user.name=a -c user.email=a@b commit -q -m first; git clone -q --bare . ../repo.git; cd ../repo.git; git update-server-info`
	cmd := b.Program("sh", "-c", script)
	cmd.Dir = b.Home
	b.Start(cmd).Wait().Must(t, 0)
	b.Origins.Handle("/repo.git/", http.FileServer(http.Dir(b.Home+"/repo.git")))
	for _, flag := range []string{"--no-proxy", "-q"} {
		dir := "clone" + flag
		b.Sandbox(append(harness.Allow("api.allowed.test"), flag, "-e", "GIT_SSL_CAINFO="+b.CA.File),
			"sh", "-c", "git clone -q https://api.allowed.test/repo.git ./"+dir+" && cat ./"+dir+"/file").Must(t, 0)
	}
	r := b.Sandbox(harness.Allow("api.allowed.test"), "git", "-c", "http.sslCAInfo="+b.CA.File, "ls-remote", "https://evil.test/repo.git")
	if r.Code == 0 {
		t.Error("git reached a name that is not allowed")
	}
}

func TestAllowedPythonAndNode(t *testing.T) {
	b := harness.New(t)
	python := `import urllib.request; print(urllib.request.urlopen("https://api.allowed.test/").read().decode(), end="")`
	node := `fetch("https://api.allowed.test/").then(r => r.text()).then(t => process.stdout.write(t))`
	for _, flag := range []string{"--no-proxy", "-q"} {
		flags := append(harness.Allow("api.allowed.test"), flag)
		if r := b.Sandbox(flags, "/usr/bin/python3", "-c", python).Must(t, 0); r.Stdout != apiBody {
			t.Errorf("python %s: %q", flag, r.Stdout)
		}
		if _, err := exec.LookPath("node"); err != nil {
			t.Fatal("node is missing: apt-get install nodejs")
		}
		if r := b.Sandbox(flags, "node", "-e", node).Must(t, 0); r.Stdout != apiBody {
			t.Errorf("node %s: %q", flag, r.Stdout)
		}
	}
}
