// Command outcall runs a command in a rootless sandbox and decides, packet by
// packet and name by name, what it may reach.
//
// This package is flags, output and exit codes; what it starts is package
// sandbox, what it asks a running session for is package hostapi.
package main

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"outcall/sandbox/gate"
	"outcall/sandbox/session"
	"outcall/sandbox/term"
	"outcall/shim"
	"outcall/shim/child"
)

// version is set by the linker.
var version = "devel"

//go:generate go test -run TestDocsAreFresh -update .

func main() {
	// A stage of the sandbox is this program started again; it must take over
	// before anything else looks at arguments or environment.
	if gate.Main() || term.Main() {
		return
	}
	if filepath.Base(os.Args[0]) == "outcall-agent" {
		os.Exit(agent())
	}
	os.Exit(run(context.Background(), os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr}))
}

// stdio are the three streams; only run and exec need them to be files.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// run is the whole program: it returns the exit code.
func run(ctx context.Context, args []string, io stdio) int {
	a := &app{io: io, env: session.HostEnv()}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(io.in)
	root.SetOut(io.out)
	root.SetErr(io.err)
	return a.finish(root.ExecuteContext(ctx))
}

func agent() int {
	dir, err := os.Getwd()
	if err != nil {
		dir = "" // deleted: relative paths then stay as they are
	}
	return shim.Main(context.Background(), shim.Caller{
		Args: os.Args[1:], Env: os.Environ(), Dir: dir, Version: version,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Run: child.Run,
	})
}
