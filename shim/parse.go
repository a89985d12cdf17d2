package shim

import (
	"errors"
	"fmt"
	"strings"

	"outcall/shim/ask"
)

// A task is what a command line asks for: a question, and the command that is
// run if it is allowed.
type task struct {
	*ask.Question
	argv []string // nil: ask only
}

// parse reads the command line. dir is the working directory.
func parse(args []string, dir string) (task, error) {
	verb, rest := args[0], args[1:]
	switch verb {
	case "fetch":
		return parseFetch(rest)
	case "file", "read", "write":
		return parseFile(verb, rest, dir)
	case "exec":
		return parseRun(ask.ToolExec, rest, dir)
	case "bash", "sh", "shell":
		return parseRun(ask.ShellExec, rest, dir)
	}
	if strings.HasPrefix(verb, "-") && verb != "--" {
		return task{}, fmt.Errorf("unknown option %s", verb)
	}
	return parseRun(ask.ToolExec, args, dir)
}

func parseFetch(args []string) (task, error) {
	if len(args) < 1 || len(args) > 2 || len(args) == 2 && args[1] == "" {
		return task{}, errors.New("fetch wants URL [METHOD]")
	}
	q, err := ask.Fetch(args[0], strings.Join(args[1:], ""))
	return task{Question: q}, err
}

func parseFile(verb string, args []string, dir string) (task, error) {
	if len(args) != 1 {
		return task{}, fmt.Errorf("%s wants one PATH", verb)
	}
	mode := "read"
	if verb == "write" {
		mode = "write"
	}
	q, err := ask.File(mode, args[0], dir)
	return task{Question: q}, err
}

func parseRun(action string, argv []string, dir string) (task, error) {
	if len(argv) > 0 && argv[0] == "--" {
		argv = argv[1:]
	}
	q, err := ask.Run(action, argv, dir)
	return task{Question: q, argv: argv}, err
}
