package hook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"outcall/policy/escape"
	"outcall/shim/ask"
)

// The exit codes that the agents know.
const (
	exitGoOn  = 0
	exitBlock = 2
)

// AgentTimeout is how long the agents wait for the hook, as installed; MaxWait
// is how long it takes at most, whatever OUTCALL_TIMEOUT_SECS says, for beyond
// the agent's own time the tool runs.
const (
	AgentTimeout = 60 * time.Second
	MaxWait      = 45 * time.Second
)

// Bounds of one call.
const (
	maxInput     = 16 << 20 // a tool's input holds the file that it writes
	maxQuestions = 64
	maxWords     = 4 << 10
)

// A Caller is the process that the agent started.
type Caller struct {
	Args           []string // behind the word hook
	Env            []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Check asks for a verdict; nil asks the session that Env names.
	Check func(context.Context, *ask.Question) (ask.Verdict, error)
	// wait is MaxWait, or a test's.
	wait time.Duration
}

// Main answers one call and returns the exit code.
func Main(ctx context.Context, c Caller) int {
	// A closed pipe must not end the process with a code that lets the tool run.
	signal.Ignore(syscall.SIGPIPE)
	stopped := make(chan os.Signal, 1)
	signal.Notify(stopped, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGALRM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGXCPU)
	a := agents["claude-code"] // whose denial is told until the name is known
	if len(c.Args) == 1 {
		if named, ok := agents[c.Args[0]]; ok {
			a = named
		} else {
			return c.block(a, fmt.Sprintf("no verdict: the agent %q is not known here", c.Args[0]))
		}
	} else {
		return c.block(a, "no verdict: usage: outcall-agent hook claude-code|codex|gemini")
	}
	if c.wait == 0 {
		c.wait = MaxWait
	}
	ctx, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	done := make(chan error, 1)
	go func() { // ends with the process: what it waits for may never come
		defer func() {
			if r := recover(); r != nil {
				done <- fmt.Errorf("no verdict: internal error: %v", r)
			}
		}()
		done <- c.decide(ctx, a)
	}()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		err = errors.New("no verdict: time-out")
	case s := <-stopped:
		err = fmt.Errorf("no verdict: ended by %v", s)
	}
	if err != nil {
		return c.block(a, err.Error())
	}
	return exitGoOn
}

// block tells the denial in both ways that agents read and returns their
// blocking code.
func (c Caller) block(a agent, words string) int {
	words = "outcall: " + escape.Text(words)
	if len(words) > maxWords {
		words = strings.ToValidUTF8(words[:maxWords], "") + "..."
	}
	if b, err := json.Marshal(a.deny(words)); err == nil {
		c.Stdout.Write(append(b, '\n'))
	}
	io.WriteString(c.Stderr, words+"\n")
	return exitBlock
}

// decide is nil where the call may go on.
func (c Caller) decide(ctx context.Context, a agent) error {
	check := c.Check
	if check == nil {
		client, timeout, err := ask.FromEnv(c.Env)
		if err != nil {
			return fmt.Errorf("no verdict: %w; the tool was not run", err)
		}
		limited, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		ctx, check = limited, client.Check
	}
	text, err := io.ReadAll(io.LimitReader(c.Stdin, maxInput+1))
	if err != nil {
		return fmt.Errorf("no verdict: the hook's input: %w; the tool was not run", err)
	}
	t, err := parse(a, text)
	if err != nil {
		return fmt.Errorf("no verdict: the hook's input: %w; the tool was not run", err)
	}
	t.home = ask.Getenv(c.Env, "HOME")
	questions, err := t.questions()
	if err != nil {
		return fmt.Errorf("denied, for no rule can be asked about this %s call: %w", t.tool, err)
	}
	for _, q := range questions {
		v, err := patient(ctx, check, q)
		if err != nil {
			return fmt.Errorf("no verdict on %s: %w; the tool was not run", about(q), err)
		}
		if !v.Allowed {
			return errors.New(denial(q, v))
		}
	}
	return nil
}

// patient asks again where only the rate limit stands between.
func patient(ctx context.Context, check func(context.Context, *ask.Question) (ask.Verdict, error), q *ask.Question) (ask.Verdict, error) {
	for {
		v, err := check(ctx, q)
		r, ok := errors.AsType[*ask.Refusal](err)
		if !ok || r.Status != 429 {
			return v, err
		}
		secs, _ := strconv.Atoi(r.Retry)
		select {
		case <-time.After(time.Duration(max(1, secs)) * time.Second):
		case <-ctx.Done():
			return v, err
		}
	}
}

// about is an action in a few words.
func about(q *ask.Question) string {
	s := q.Target
	if args := q.Metadata["args"]; args != "" {
		s += " " + args
	}
	if mode := q.Metadata["mode"]; mode != "" {
		s = mode + " " + s
	}
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "..."
	}
	return s
}

var denialID = regexp.MustCompile(`\bd-[0-9a-f]{8}\b`)

// denial is what the agent is to read: who denied what, why, and what to do.
func denial(q *ask.Question, v ask.Verdict) string {
	s := fmt.Sprintf("denied by %s: %s: %s.", v.Rule, about(q), v.Reason)
	if id := denialID.FindString(v.Reason); id != "" {
		s += " Do not retry; `outcall-agent why " + id + "` tells which rule would allow it."
	}
	return s
}
