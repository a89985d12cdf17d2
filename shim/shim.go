package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"outcall/policy/escape"
	"outcall/shim/ask"
	"outcall/shim/child"
	"outcall/shim/hook"
	"outcall/shim/mcp"
)

// beat is how often a running command's session is looked at.
const beat = 10 * time.Second

// A Caller is the process that asks.
type Caller struct {
	Args           []string // without the program's own name
	Env            []string
	Dir            string
	Version        string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Run runs a command that was allowed; child.Run does.
	Run func(child.Command) (code int, err error)
}

const usage = `Usage:
  outcall-agent exec CMD [ARG...]     ask, then run the command
  outcall-agent bash|sh CMD [ARG...]  the same, asked as a shell's command
  outcall-agent CMD [ARG...]          the same as exec
  outcall-agent fetch URL [METHOD]    ask only
  outcall-agent file|read PATH        ask only
  outcall-agent write PATH            ask only
  outcall-agent why [ID]              explain a denial, or the latest one
  outcall-agent request FILE          propose a rule file to the operator (- is standard input)
  outcall-agent status [REQUEST]      the session, or how a proposal stands
  outcall-agent policy                what is reachable, as /run/outcall/README.md
  outcall-agent hook AGENT            answer a hook of claude-code, codex or gemini
  outcall-agent mcp                   serve the Model Context Protocol on standard input and output

Exit code: the command's own, or 128+n if signal n ended it; 0 allowed, 1 denied,
5 no verdict could be had and nothing was run (or the session ended and the
command was killed), 2 wrong usage, 126 not executable, 127 not found.

Environment: OUTCALL_AGENT_SOCK (default /run/outcall/agent.sock),
OUTCALL_TIMEOUT_SECS (1 to 300, default 30).
`

// Main is the program. It returns the exit code.
func Main(ctx context.Context, c Caller) int {
	if len(c.Args) == 0 {
		io.WriteString(c.Stderr, usage)
		return exitUsage
	}
	// Only as the first word: `outcall-agent git --version` is git's.
	switch c.Args[0] {
	case "--version", "-V":
		fmt.Fprintln(c.Stdout, "outcall-agent", c.Version)
		return 0
	case "--help", "-h":
		io.WriteString(c.Stdout, usage)
		return 0
	case "hook": // never another exit code than its own two
		return hook.Main(ctx, hook.Caller{Args: c.Args[1:], Env: c.Env, Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr})
	}
	act, err := c.parse()
	if err != nil {
		c.say("%v", err)
		io.WriteString(c.Stderr, usage)
		return exitUsage
	}
	client, timeout, err := ask.FromEnv(c.Env)
	if err != nil {
		return c.noVerdict(err)
	}
	if len(c.Args) == 1 && c.Args[0] == "mcp" {
		return c.mcp(ctx, client, timeout)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return act(ctx, client)
}

// mcp serves as long as its client keeps standard input open.
func (c *Caller) mcp(ctx context.Context, client ask.Client, timeout time.Duration) int {
	s := mcp.Server{Client: client, Timeout: timeout, Version: c.Version, Dir: c.Dir}
	if err := s.Serve(ctx, c.Stdin, c.Stdout); err != nil {
		c.say("mcp: %v", err)
		return exitNoVerdict
	}
	return exitAllowed
}

// An action is what a command line asks for.
type action func(context.Context, ask.Client) (code int)

func (c *Caller) noVerdict(err error) int {
	c.say("no verdict: %v; nothing was run", err)
	return exitNoVerdict
}

// ask asks one question, and runs a command if that is allowed.
func (c *Caller) ask(q *ask.Question, argv []string) action {
	return func(ctx context.Context, client ask.Client) int {
		v, err := client.Check(ctx, q)
		switch {
		case err != nil:
			return c.noVerdict(err)
		case !v.Allowed:
			c.say("denied by %s: %s", v.Rule, v.Reason)
			return exitDenied
		case argv == nil:
			return exitAllowed
		}
		return c.run(client, argv)
	}
}

// say writes one line; texts in it came over the socket or the command line.
func (c *Caller) say(format string, args ...any) {
	fmt.Fprintln(c.Stderr, "outcall-agent: "+escape.Text(fmt.Sprintf(format, args...)))
}

// run runs the command while its session lives.
func (c *Caller) run(client ask.Client, argv []string) int {
	path, err := c.find(argv[0])
	code := exitAllowed
	if err == nil {
		code, err = c.Run(child.Command{Path: path, Argv: argv, Env: c.Env, Beat: beat, Alive: func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, beat)
			defer cancel()
			return client.Ping(ctx)
		}})
	}
	if lost, ok := errors.AsType[*child.Lost](err); ok {
		c.say("the session has ended: %v; the command was killed", lost)
		return exitNoVerdict
	}
	switch {
	case err == nil:
		return code
	case errors.Is(err, fs.ErrNotExist):
		c.say("%s: not found", argv[0])
		return exitNotFound
	}
	c.say("%s: %v", argv[0], plain(err))
	return exitNotExecutable
}

// find leads a command's name to its file as a shell does: a name with a
// slash is a path, any other is looked for in the caller's PATH. That is the
// agent's own choice; nothing of outcall is found so.
func (c *Caller) find(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil // whether it can be run is the kernel's to say
	}
	refused := error(fs.ErrNotExist)
	for _, dir := range filepath.SplitList(ask.Getenv(c.Env, "PATH")) {
		if dir == "" {
			dir = "." // POSIX: an empty element is the working directory
		}
		path := filepath.Join(dir, name)
		st, err := os.Stat(path)
		if err != nil || st.IsDir() {
			continue
		}
		if st.Mode().Perm()&0o111 != 0 {
			return path, nil
		}
		refused = syscall.EACCES
	}
	return "", refused
}

// plain is the kernel's answer without the operation that led to it.
func plain(err error) error {
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return e
	}
	return err
}
