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

	"outcall/policy/escape"
	"outcall/shim/ask"
)

// A Caller is the process that asks.
type Caller struct {
	Args           []string // without the program's own name
	Env            []string
	Dir            string
	Version        string
	Stdout, Stderr io.Writer
	// Exec replaces the process; it returns only on failure.
	Exec func(path string, argv, env []string) error
}

const usage = `Usage:
  outcall-agent exec CMD [ARG...]     ask, then run the command
  outcall-agent bash|sh CMD [ARG...]  the same, asked as a shell's command
  outcall-agent CMD [ARG...]          the same as exec
  outcall-agent fetch URL [METHOD]    ask only
  outcall-agent file|read PATH        ask only
  outcall-agent write PATH            ask only

Exit code: the command's own; 0 allowed, 1 denied, 5 no verdict could be had
and nothing was run, 2 wrong usage, 126 not executable, 127 not found.

Environment: OUTCALL_AGENT_SOCK (default /run/outcall/agent.sock),
OUTCALL_TIMEOUT_SECS (1 to 300, default 30).
`

// Main is the program. It returns the exit code, unless the verdict is to run
// a command: then c.Exec replaces the process.
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
	}
	q, err := parse(c.Args, c.Dir)
	if err != nil {
		c.say("%v", err)
		io.WriteString(c.Stderr, usage)
		return exitUsage
	}
	client, timeout, err := ask.FromEnv(c.Env)
	if err != nil {
		c.say("%v; nothing was run", err)
		return exitNoVerdict
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	v, err := client.Check(ctx, q.Question)
	if err != nil {
		c.say("no verdict: %v; nothing was run", err)
		return exitNoVerdict
	}
	if !v.Allowed {
		c.say("denied by %s: %s", v.Rule, v.Reason)
		return exitDenied
	}
	if q.argv == nil {
		return exitAllowed
	}
	return c.run(q.argv)
}

// say writes one line; texts in it came over the socket or the command line.
func (c *Caller) say(format string, args ...any) {
	fmt.Fprintln(c.Stderr, "outcall-agent: "+escape.Text(fmt.Sprintf(format, args...)))
}

// run becomes the command.
func (c *Caller) run(argv []string) int {
	path, err := c.find(argv[0])
	if err == nil {
		err = c.Exec(path, argv, c.Env)
	}
	switch {
	case err == nil:
		return exitAllowed
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
