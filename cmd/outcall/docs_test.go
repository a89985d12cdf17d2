package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write docs/cli.md and docs/man")

const docsDir = "../../docs"

// The reference is written from the commands themselves, so it cannot name
// one that does not exist: `go generate ./cmd/outcall` writes it.
func TestDocsAreFresh(t *testing.T) {
	want := referenceFiles()
	if *update {
		os.RemoveAll(filepath.Join(docsDir, "man"))
		for name, text := range want {
			path := filepath.Join(docsDir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	for name, text := range want {
		got, err := os.ReadFile(filepath.Join(docsDir, name))
		if err != nil || !bytes.Equal(got, text) {
			t.Errorf("docs/%s is not what the commands say (%v): run `go generate ./cmd/outcall`", name, err)
		}
	}
	pages, err := filepath.Glob(filepath.Join(docsDir, "man", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages {
		if _, ok := want["man/"+filepath.Base(p)]; !ok {
			t.Errorf("%s is a page of no command", p)
		}
	}
}

func referenceFiles() map[string][]byte {
	root := (&app{}).root()
	out := map[string][]byte{"cli.md": markdown(root)}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if !c.IsAvailableCommand() && c != root {
			return
		}
		// As at run time: cobra adds it when a command is executed.
		c.InitDefaultHelpFlag()
		out["man/"+strings.ReplaceAll(c.CommandPath(), " ", "-")+".1"] = manPage(c)
		for _, child := range c.Commands() {
			walk(child)
		}
	}
	walk(root)
	out["man/outcall-agent.1"] = agentPage()
	return out
}

// markdown is the whole reference on one page.
func markdown(root *cobra.Command) []byte {
	var b bytes.Buffer
	b.WriteString("# Command line\n\nWritten from the program by `go generate ./cmd/outcall`.\n")
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if !c.IsAvailableCommand() && c != root {
			return
		}
		fmt.Fprintf(&b, "\n## %s\n\n", c.CommandPath())
		text := c.Long
		if text == "" {
			text = c.Short
		}
		fmt.Fprintf(&b, "%s\n\n```\n%s\n```\n", text, strings.TrimRight(c.UsageString(), "\n"))
		for _, child := range c.Commands() {
			walk(child)
		}
	}
	walk(root)
	return b.Bytes()
}
