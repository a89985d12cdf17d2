package integration

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// readme returns the README's lines that begin with a command, less comments,
// with "go run ./cmd/outcall" replaced by the built program: there is no tool
// chain in the world.
func readme(t *testing.T, begins string) []string {
	t.Helper()
	// A relative name: the world's /tmp and /home may stand over the checkout.
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range regexp.MustCompile(`(?m)^`+begins+`.*$`).FindAllString(string(text), -1) {
		command, _, _ := strings.Cut(m, " #")
		out = append(out, strings.TrimSpace(strings.Replace(command, "go run ./cmd/outcall", "outcall", 1)))
	}
	if len(out) == 0 {
		t.Fatalf("the README has no line that begins with %q", begins)
	}
	return out
}

// exampleWorld serves the names that the README uses.
func exampleWorld(b *harness.Bed) {
	for _, n := range []string{"example.com", "api.example.com", "git.example.com"} {
		b.DNS.Set(n, world.Records{Addrs: b.AddrsOf("api.allowed.test"), TTL: -1})
	}
}

// The README's first command, as it stands there, prints the page; with
// another name in the URL curl fails and the missing rule is named.
func TestReadmeFirstCommand(t *testing.T) {
	b := harness.New(t)
	exampleWorld(b)
	first := readme(t, "go run ./cmd/outcall run ")[0]
	if want := "outcall run --allow example.com -- curl https://example.com/"; first != want {
		t.Fatalf("the first command is %q, not %q", first, want)
	}
	r := b.Start(b.Program("sh", "-c", first)).Wait().Must(t, 0)
	mustContain(t, "page", r.Stdout, "origin example.com /")
	r = b.Start(b.Program("sh", "-c", strings.Replace(first, "https://example.com", "https://evil.test", 1))).Wait()
	if r.Code == 0 {
		t.Error("another name was reached")
	}
	mustContain(t, "summary", r.Stderr, "evil.test", "no rule allows it", "--allow evil.test")
}

// The tour's commands that start something, with a small agent.
func TestReadmeTour(t *testing.T) {
	b := harness.New(t)
	exampleWorld(b)
	agent := b.Write("work/agent", "#!/bin/sh\nexec curl -sS -o /dev/null https://api.example.com/\n")
	if err := os.Chmod(agent, 0o755); err != nil {
		t.Fatal(err)
	}
	b.Write("work/rules/r.yaml", "version: \"1\"\nrules:\n"+allowRule("api.example.com"))
	for _, c := range readme(t, "outcall (run|explain) ") {
		c = strings.Replace(c, "npm ci", "./agent", 1) // there is no project to install
		r := b.Start(b.Program("sh", "-c", c)).Wait()
		if r.Code != 0 {
			t.Errorf("%s: code %d\n%s%s", c, r.Code, r.Stdout, r.Stderr)
		}
	}
}

// The commands for another terminal, one by one, in a live session.
func TestReadmeLiveSession(t *testing.T) {
	b := harness.New(t)
	exampleWorld(b)
	p := b.StartSandbox([]string{"-a", "api.example.com"}, "sh", "-c", "curl -sS https://api.example.com/; echo ready; exec sleep 1000")
	p.WaitFor("ready")
	for _, c := range readme(t, "outcall (ps|log|rules|requests|dns|bridge|exec)\\b") {
		c = strings.Replace(c, "NAME", p.Name, 1)
		endless := c == "outcall log -f" || strings.HasPrefix(c, "outcall bridge capture")
		if endless {
			c = "timeout 1 " + c + "; test $? = 124"
		}
		cmd := b.Program("sh", "-c", c)
		cmd.Stdin = strings.NewReader("echo in the same sandbox\n")
		r := b.Start(cmd).Wait()
		if r.Code != 0 || r.Stdout == "" && !endless {
			t.Errorf("%s: code %d\n%s%s", c, r.Code, r.Stdout, r.Stderr)
		}
	}
	for _, c := range readme(t, "outcall stop ") {
		b.Start(b.Program("sh", "-c", strings.Replace(c, "NAME", p.Name, 1))).Wait().Must(t, 0)
	}
	p.Wait()
	r := b.Outcall("ps", "--json").Must(t, 0)
	if !json.Valid([]byte(r.Stdout)) || strings.Contains(r.Stdout, p.Name) {
		t.Errorf("ps after stop: %s", r.Stdout)
	}
}
