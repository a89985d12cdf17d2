package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"outcall/integration/harness"
)

// C5: over the operator's socket, as curl speaks to it, a reload of rules that
// cannot be read is 422 with the file, the line and what was meant; the old
// rules stay in force. A reload and its dry run tell the warnings that `rules
// check` tells.
func TestC5ReloadOverTheSocket(t *testing.T) {
	b := harness.New(t)
	file := b.Rules("agent.yaml", allowRule("api.allowed.test"))
	cmd, name := b.SandboxCommand([]string{"-q", "--rules", file}, "sh", "-c",
		"while read x; do curl -sS -f -o /dev/null --max-time 20 https://api.allowed.test/ && echo passed-$x || echo refused-$x; done")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := b.Start(cmd)
	fmt.Fprintln(in, "first")
	p.WaitFor("passed-first")
	socket := b.Runtime + "/outcall/" + name + "/host.sock"
	reload := func(query string) (code, body string) {
		r := b.Start(b.Program("curl", "-sS", "-X", "POST", "-w", "\n%{http_code}", "--unix-socket", socket, "http://localhost/api/v1/rules/reload"+query)).Wait()
		if r.Code != 0 {
			t.Fatalf("curl: %s", r.Stderr)
		}
		body, code, _ = strings.Cut(strings.TrimSpace(r.Stdout), "\n")
		return strings.TrimSpace(code), body
	}
	for what, text := range map[string]string{
		"plain":      "version: \"1\"\nrules:\n  - id: a\n    action: allow\n    condition: http_host == \"a.test\"\n",
		"folded":     "version: \"1\"\nrules:\n  - id: a\n    condition: >-\n      http_host == \"a.test\"\n    action: allow\n",
		"definition": "version: \"1\"\ndefinitions:\n  x: >-\n\n    http_host == \"a.test\"\nrules:\n  - {id: a, action: allow, condition: $x}\n",
	} {
		b.Write("rules/agent.yaml", text)
		for _, query := range []string{"", "?dry_run=true"} {
			code, body := reload(query)
			var got struct {
				OK    *bool
				Error string
			}
			want := file + ":5: CEL parse error: undefined identifier 'http_host' (did you mean http.host?)"
			if err := json.Unmarshal([]byte(body), &got); err != nil || got.OK == nil || *got.OK || got.Error != want || code != "422" {
				t.Errorf("%s%s: %s %s, want 422 and %q", what, query, code, body, want)
			}
		}
		fmt.Fprintln(in, what)
		p.WaitFor("passed-" + what)
	}

	doubtful := allowRule("api.allowed.test") + "  - id: wide\n    condition: 'http.host != \"evil.test\"'\n    action: allow\n"
	b.Rules("agent.yaml", doubtful)
	check := b.Outcall("rules", "check", file).Must(t, 0)
	for _, query := range []string{"?dry_run=true", ""} {
		code, body := reload(query)
		var got struct {
			Data struct {
				Files    int `json:"files_loaded"`
				Rules    int `json:"rules_loaded"`
				Warnings []string
			}
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil || code != "200" || got.Data.Files != 1 || got.Data.Rules != 2 || len(got.Data.Warnings) < 2 {
			t.Fatalf("%s: %s %s", query, code, body)
		}
		for _, w := range got.Data.Warnings {
			path, msg, _ := strings.Cut(w, ": ")
			mustContain(t, "rules check", check.Stdout, path+": warning: "+msg)
		}
	}
	in.Close()
	p.Wait()
}

// C5: verdicts go on while ten thousand rules are reloaded, again and again:
// what both sets allow is never refused, and what neither allows never passes.
func TestC5VerdictsDuringAReload(t *testing.T) {
	b := harness.New(t)
	var many strings.Builder
	many.WriteString(allowRule("api.allowed.test"))
	for i := range 9_990 {
		fmt.Fprintf(&many, "  - {id: m%d, action: allow, condition: 'dns.query == \"h%d.test\" || http.host == \"h%d.test\"'}\n", i, i, i)
	}
	file := b.Rules("many.yaml", allowRule("api.allowed.test"))
	k := b.Canary(t)
	p := b.StartSandbox([]string{"-q", "--rules", file}, "sh", "-c", fmt.Sprintf(`echo ready
i=0; while [ $i -lt 1000 ] && ! [ -e done ]; do i=$((i+1))
curl -sS -f -o /dev/null --max-time 20 http://api.allowed.test/ || echo refused
curl -sS -f -o /dev/null --max-time 20 http://evil.test/%s && echo passed
done; echo asked $i times`, k.Word))
	p.WaitFor("ready")
	for i := range 6 {
		if i%2 == 0 {
			b.Rules("many.yaml", many.String())
		} else {
			b.Rules("many.yaml", allowRule("api.allowed.test"))
		}
		r := b.Outcall("--session", p.Name, "rules", "reload", "--json").Must(t, 0)
		mustContain(t, "reload", r.Stdout, `"rules_loaded":`)
	}
	b.Write(b.Work+"/done", "")
	r := p.Wait()
	if strings.Contains(r.Stdout, "refused") || strings.Contains(r.Stdout, "passed") || strings.Contains(r.Stdout, "asked 1 times") {
		t.Errorf("during reloads:\n%s\n%s", r.Stdout, r.Stderr)
	}
	k.MustNotArrive(t)
}
