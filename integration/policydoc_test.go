package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// A step of the walkthrough: a file to save, or a command with what it shows.
type docStep struct {
	file, text string
	command    string
	shown      []string
}

var (
	docBlock = regexp.MustCompile("(?s)```(\\w+)\n(.*?)```")
	docSave  = regexp.MustCompile("as `([^`]+)`:\\s*$")
)

// docSteps reads a page: a block is saved where the text before it ends with
// "as `name`:", and the lines of console blocks are commands after "$ " and
// parts of what they print.
func docSteps(t *testing.T, path string) []docStep {
	t.Helper()
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []docStep
	last := 0
	for _, m := range docBlock.FindAllStringSubmatchIndex(string(page), -1) {
		before := strings.TrimRight(strings.ReplaceAll(string(page[last:m[0]]), "\n", " "), " ")
		kind, text := string(page[m[2]:m[3]]), string(page[m[4]:m[5]])
		last = m[1]
		if kind == "console" {
			out = append(out, docCommands(t, text)...)
			continue
		}
		name := docSave.FindStringSubmatch(before)
		if name == nil {
			t.Errorf("a block of %s is neither saved nor run:\n%s", kind, text)
			continue
		}
		out = append(out, docStep{file: name[1], text: text})
	}
	return out
}

func docCommands(t *testing.T, text string) (out []docStep) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if c, ok := strings.CutPrefix(line, "$ "); ok {
			out = append(out, docStep{command: c})
		} else if len(out) == 0 {
			t.Errorf("output before a command: %s", line)
		} else if line != "" {
			s := &out[len(out)-1]
			s.shown = append(s.shown, line)
		}
	}
	return out
}

// shows reports that an output has a line as the page has it, where … stands
// for anything.
func shows(output, line string) bool {
	pattern := strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*")
	return regexp.MustCompile(`(?m)^` + pattern + `$`).MatchString(output)
}

// runSteps runs a page's commands in order, as written, and demands that they
// print what the page shows. It returns their first two words.
func runSteps(t *testing.T, b *harness.Bed, steps []docStep) map[string]bool {
	t.Helper()
	ran := map[string]bool{}
	for _, s := range steps {
		if s.file != "" {
			b.Write(filepath.Join("work", s.file), s.text)
			continue
		}
		r := b.Start(b.Program("sh", "-c", s.command)).Wait()
		if r.Code != 0 {
			t.Errorf("$ %s\ncode %d\n%s%s", s.command, r.Code, r.Stdout, r.Stderr)
		}
		output := r.Stdout + r.Stderr
		for _, line := range s.shown {
			if !shows(output, line) {
				t.Errorf("$ %s\ndoes not print %q but\n%s", s.command, line, output)
			}
		}
		words := strings.Fields(s.command)
		ran[strings.Join(words[:min(2, len(words))], " ")] = true
	}
	return ran
}

// Every command of docs/policy.md is run in order, as written, and prints what
// the page shows.
func TestPolicyWalkthrough(t *testing.T) {
	// A relative name: the world's /tmp and /home may stand over the checkout.
	steps := docSteps(t, "../docs/policy.md")
	b := harness.New(t)
	for _, n := range []string{"api.example.com", "packages.example.org", "telemetry.example.net"} {
		b.DNS.Set(n, world.Records{Addrs: b.AddrsOf("api.allowed.test"), TTL: -1})
	}
	ran := runSteps(t, b, steps)
	for _, c := range []string{"outcall run", "outcall suggest", "outcall rules", "outcall explain"} {
		if !ran[c] {
			t.Errorf("the page has no command %q", c)
		}
	}
}

// Every command of docs/troubleshooting.md, in a session as the page has it.
func TestTroubleshooting(t *testing.T) {
	steps := docSteps(t, "../docs/troubleshooting.md")
	b := harness.New(t)
	exampleWorld(b)
	p := b.Start(b.Command("run", "--name", "agent-1", "--allow", "api.example.com", "--", "sh", "-c", "echo ready; exec sleep 1000"))
	p.WaitFor("ready")
	ran := runSteps(t, b, steps)
	for _, c := range []string{"outcall doctor", "outcall bridge", "outcall dns", "outcall rules", "outcall explain", "outcall log", "outcall ps", "curl -sS"} {
		if !ran[c] {
			t.Errorf("the page has no command %q", c)
		}
	}
	b.Outcall("stop", "agent-1").Must(t, 0)
	p.Wait()
}
