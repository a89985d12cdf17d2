package integration

import (
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"outcall/integration/harness"
)

// The text inside tells what is reachable, follows a reload, and cannot be
// changed from inside.
func TestAgentReadme(t *testing.T) {
	b := harness.New(t)
	rules := b.Rules("r.yaml", "  - {id: one, action: allow, condition: 'dns.query == \"one.test\" || http.host == \"one.test\"'}\n")
	p := b.StartSandbox([]string{"-q", "--rules", rules}, "sh", "-c", `f=/run/outcall/README.md; stat -c '%a %F' $f; cat $f
		{ echo x >> $f; chmod 666 $f; rm -f $f; mv $f /tmp/; ln -sf /dev/null $f; } 2>/dev/null
		echo now; until grep -q two.test $f; do sleep 0.05; done; cat $f; outcall-agent policy | diff - $f`)
	p.WaitFor("now\n")
	mustContain(t, "README.md", p.Output(), "444 regular file\n", "Session "+p.Name+".", "- `one.test`: https, http\n", "outcall-agent why ID", "Do not retry")
	mustLack(t, "README.md", p.Output(), "two.test", "\nx\n", b.Home)
	b.Rules("r.yaml", "  - {id: two, action: allow, condition: 'dns.query == \"two.test\" || http.host == \"two.test\"'}\n")
	b.Outcall("--session", p.Name, "rules", "reload").Must(t, 0)
	r := p.Wait()
	_, after, _ := strings.Cut(r.Stdout, "now\n")
	mustContain(t, "README.md after the reload", after, "- `two.test`: https, http\n")
	mustLack(t, "README.md after the reload", after, "one.test")
}

// Every denial that can carry a text has an id, and why explains each; the
// others are found as the latest.
func TestDenialIDsAreExplained(t *testing.T) {
	b := harness.New(t)
	script := `
		d=` + harness.Probe + `
		echo "dns $($d dns udp 10.200.0.1:53 A evil.test)"
		echo "http $(curl -s http://evil.test/)"
		exec 3<>/dev/tcp/10.200.0.1/8080; printf 'CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n' >&3
		echo "connect $(head -c 400 <&3 | tr -d '\r' | tr '\n' ' ')"; exec 3>&-
		echo "shim $(outcall-agent fetch https://evil.test/ 2>&1)"
		echo "exec $(outcall-agent exec true 2>&1)"
		$d tcp hello ` + at(b.V4(t, "evil.test"), 443) + `; echo "latest $(outcall-agent why | head -1)"`
	ids := mkfifo(t, b.Work+"/ids")
	p := b.StartSandbox(allowAPI, "bash", "-c", script+"\necho all; while read id; do outcall-agent why $id; echo \"code $?\"; done <"+b.Work+"/ids")
	p.WaitFor("all\n")
	id := regexp.MustCompile(`d-[0-9a-f]{8}`)
	var asked []string
	for _, way := range []string{"dns", "http", "connect", "shim", "exec", "latest"} {
		line := regexp.MustCompile(`(?m)^` + way + " .*$").FindString(p.Output())
		got := id.FindString(line)
		if got == "" {
			t.Errorf("%s: no id in %q", way, line)
		}
		asked = append(asked, got)
	}
	asked = append(asked, "d-00000000")
	ids(strings.Join(asked, "\n") + "\n")
	r := p.Wait()
	_, answers, _ := strings.Cut(r.Stdout, "all\n")
	parts := strings.SplitAfter(answers, "code ")
	for i, want := range []string{"dns  evil.test A", "request  evil.test:80", "connect  evil.test:443", "run  evil.test:443", "run  true", "flow  "} {
		mustContain(t, asked[i], parts[i], asked[i]+"  ", want, "denied by default policy: ")
		if i < 5 {
			mustContain(t, asked[i], parts[i], "version: \"1\"")
		}
		if !strings.HasPrefix(parts[i+1], "0\n") {
			t.Errorf("why %s: code %q", asked[i], parts[i+1])
		}
	}
	if !strings.HasPrefix(parts[len(parts)-1], "1\n") {
		t.Errorf("why of an unknown id: %q", parts[len(parts)-1])
	}
	mustContain(t, "standard error", r.Stderr, "d-00000000: no such denial")
	var told []string
	for _, e := range b.Denials(t, r.Name, nil) {
		told = append(told, e.ID)
	}
	for _, a := range asked[:6] {
		if !slices.Contains(told, a) {
			t.Errorf("%s is in no line of the audit", a)
		}
	}
}

// The shim inside: on PATH, not writable, small; what it runs keeps its
// arguments, streams and exit code.
func TestShimInside(t *testing.T) {
	b := harness.New(t)
	rules := b.Rules("r.yaml", "  - {id: sh, action: allow, condition: 'run.tool in [\"sh\", \"cat\", \"/no/such\", \"/etc/passwd\", \"printf\"]'}\n")
	r := b.Sandbox([]string{"-q", "--rules", rules}, "bash", "-c", `PATH=/usr/bin:/bin:${PATH##*:}; p=$(command -v outcall-agent); echo "$p"; stat -c 'size %s' $p
		{ echo x >> $p || rm -f $p || mv $p $p.old || chmod 777 $p; } 2>/dev/null; cmp -s $p /run/outcall/bin/outcall && echo same
		outcall-agent exec sh -c 'exit 7'; echo "seven $?"
		outcall-agent sh sh -c 'kill -USR1 $$'; echo "usr1 $?"
		outcall-agent printf '<%s>\n' 'a  b' '' '$HOME' --version
		echo in | outcall-agent cat
		outcall-agent exec ls; echo "denied $?"
		outcall-agent exec /no/such; echo "missing $?"
		outcall-agent exec /etc/passwd; echo "noexec $?"
		ln -s /run/outcall/bin/outcall /tmp/outcall-agent; /tmp/outcall-agent --version; /tmp/outcall-agent exec sh -c 'exit 9'; echo "nine $?"
		OUTCALL_AGENT_SOCK=/no/sock outcall-agent exec sh -c 'echo ran'; echo "none $?"`)
	mustContain(t, "output", r.Stdout, "/run/outcall/bin/outcall-agent\n", "seven 7\n", "usr1 138\n", "<a  b>\n<>\n<$HOME>\n<--version>\n", "in\n",
		"denied 1\n", "missing 127\n", "noexec 126\n", "outcall-agent ", "nine 9\n", "none 5\n")
	mustLack(t, "output", r.Stdout, "same", "ran\n")
	mustContain(t, "errors", r.Stderr, "outcall-agent: denied by default policy: no rule allows it (d-", "nothing was run")
	size := regexp.MustCompile(`size (\d+)`).FindStringSubmatch(r.Stdout)
	if len(size) != 2 || len(size[1]) > 7 || len(size[1]) == 7 && size[1] > "6291456" {
		t.Errorf("size %v: more than 6 MiB", size)
	}
}

// mkfifo makes a FIFO that a command inside reads from; what it returns writes
// to it once and closes it.
func mkfifo(t *testing.T, path string) (write func(string)) {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return func(text string) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		io.WriteString(f, text)
	}
}

// On a terminal inside a session, what the shim runs reads, is interrupted,
// stopped and continued as the shell's own job.
func TestShimTerminal(t *testing.T) {
	b := harness.New(t)
	rules := b.Rules("r.yaml", "  - {id: sh, action: allow, condition: 'run.tool == \"sh\"'}\n")
	s := newScreen(t, b, harness.Outcall, "run", "-q", "--name", b.NewName(), "--rules", rules, "--", "sh")
	s.typed("PS1='in''side> '\n")
	s.expect("inside> ")
	s.typed("outcall-agent exec sh -c 'read x; echo got-$x'\n")
	s.typed("word\n")
	s.expect("got-word")
	s.expect("inside> ")
	s.typed("outcall-agent exec sh -c 'echo running$((1+1)); exec sleep 1000'\n")
	s.expect("running2")
	s.typed("\x03")
	s.expect("inside> ")
	s.typed("echo code$?.\n")
	s.expect("code130.")
	s.typed("outcall-agent exec sh -c 'echo again$((1+1)); exec sleep 1000'\n")
	s.expect("again2")
	s.typed("\x1a")
	s.expect("Stopped")
	s.expect("inside> ")
	s.typed("fg\n")
	s.expect("sleep 1000")
	s.typed("\x03")
	s.expect("inside> ")
	s.typed("exit 5\n")
	s.ends(5)
}
