package main

import (
	"context"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func (a *app) completionCommand() *cobra.Command {
	var c *cobra.Command
	c = a.cmd("completion SHELL", "print a completion script for bash, zsh, fish or powershell", exactly("SHELL"),
		func(_ context.Context, args []string) error {
			root := c.Root()
			switch args[0] {
			case "bash":
				return a.written(root.GenBashCompletionV2(a.io.out, true))
			case "zsh":
				return a.written(root.GenZshCompletion(a.io.out))
			case "fish":
				return a.written(root.GenFishCompletion(a.io.out, true))
			case "powershell":
				return a.written(root.GenPowerShellCompletionWithDesc(a.io.out))
			}
			return usagef("completion %q: want bash, zsh, fish or powershell", args[0])
		})
	c.ValidArgs = []string{"bash", "zsh", "fish", "powershell"}
	return c
}

// versionInfo answers version --json.
type versionInfo struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
	Commit  string `json:"commit,omitempty"`
}

func (a *app) versionCommand() *cobra.Command {
	var asJSON *bool
	c := a.cmd("version [--json]", "print the version", none, func(context.Context, []string) error {
		v := versionInfo{Version: version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
		if bi, ok := debug.ReadBuildInfo(); ok {
			for _, s := range bi.Settings {
				if s.Key == "vcs.revision" {
					v.Commit = s.Value
				}
			}
		}
		return a.print(*asJSON, v, func(w io.Writer) { io.WriteString(w, "outcall "+v.Version+"\n") })
	})
	asJSON = jsonFlag(c)
	return c
}
