// Command outcall-agent asks the outcall session that it runs in for a
// verdict, then runs a command or tells the answer. See package shim.
package main

import (
	"context"
	"os"

	"outcall/shim"
	"outcall/shim/child"
)

// version is set by the linker.
var version = "devel"

func main() {
	dir, err := os.Getwd()
	if err != nil {
		dir = "" // deleted: relative paths then stay as they are
	}
	os.Exit(shim.Main(context.Background(), shim.Caller{
		Args: os.Args[1:], Env: os.Environ(), Dir: dir, Version: version,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Run: child.Run,
	}))
}
