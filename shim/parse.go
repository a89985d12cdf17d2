package shim

import (
	"errors"
	"fmt"
	"strings"

	"outcall/shim/ask"
)

// parse reads the command line. An error is a wrong usage.
func (c *Caller) parse() (action, error) {
	verb, rest := c.Args[0], c.Args[1:]
	switch verb {
	case "fetch":
		return c.parseFetch(rest)
	case "file", "read", "write":
		return c.parseFile(verb, rest)
	case "exec":
		return c.parseRun(ask.ToolExec, rest)
	case "bash", "sh", "shell":
		return c.parseRun(ask.ShellExec, rest)
	case "why", "request", "status", "policy":
		return c.parseTell(verb, rest)
	}
	if strings.HasPrefix(verb, "-") && verb != "--" {
		return nil, fmt.Errorf("unknown option %s", verb)
	}
	return c.parseRun(ask.ToolExec, c.Args)
}

func (c *Caller) parseFetch(args []string) (action, error) {
	if len(args) < 1 || len(args) > 2 || len(args) == 2 && args[1] == "" {
		return nil, errors.New("fetch wants URL [METHOD]")
	}
	q, err := ask.Fetch(args[0], strings.Join(args[1:], ""))
	return c.ask(q, nil), err
}

func (c *Caller) parseFile(verb string, args []string) (action, error) {
	if len(args) != 1 {
		return nil, fmt.Errorf("%s wants one PATH", verb)
	}
	mode := "read"
	if verb == "write" {
		mode = "write"
	}
	q, err := ask.File(mode, args[0], c.Dir)
	return c.ask(q, nil), err
}

func (c *Caller) parseRun(action string, argv []string) (action, error) {
	if len(argv) > 0 && argv[0] == "--" {
		argv = argv[1:]
	}
	q, err := ask.Run(action, argv, c.Dir)
	return c.ask(q, argv), err
}

func (c *Caller) parseTell(verb string, args []string) (action, error) {
	arg := ""
	switch {
	case len(args) > 1, len(args) == 1 && args[0] == "", verb == "policy" && len(args) > 0:
		return nil, fmt.Errorf("%s: too many words", verb)
	case len(args) == 1:
		arg = args[0]
	case verb == "request":
		return nil, errors.New("request wants FILE, or - for standard input")
	}
	switch verb {
	case "why":
		return c.why(arg), nil
	case "request":
		return c.request(arg), nil
	case "policy":
		return c.policy, nil
	}
	return c.status(arg), nil
}
