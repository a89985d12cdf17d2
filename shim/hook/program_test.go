package hook_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"outcall/shim/hookfile"
)

// The real program, behind the command line that is installed: whatever
// befalls it, the shell ends with the agents' blocking code and with words.
func TestInstalledCommandLine(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "outcall-agent")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", bin, "outcall/cmd/outcall-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	if fi, err := os.Stat(bin); err != nil || fi.Size() > 6<<20 {
		t.Errorf("size %d, %v; the limit is 6 MiB", fi.Size(), err)
	}
	call := `{"hook_event_name":"PreToolUse","tool_name":"Bash","cwd":"/","tool_input":{"command":"true"}}`
	line := strings.Replace(hookfile.Command("claude-code"), hookfile.Shim, bin, 1)
	hurried := bin + "-hurried" // the limit of the program alone: the shell around it needs a moment
	if err := os.WriteFile(hurried, []byte("#!/bin/sh\nulimit -t 0\nexec "+bin+" \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, line string
		signal     syscall.Signal // sent to the program; its input stays open then
		want       string
	}{
		{"no session", line, 0, "outcall: no verdict on true"},
		{"no program", hookfile.Command("codex"), 0, "ended with status 127"},
		{"no memory", "ulimit -v 20000; " + line, 0, ""},
		{"no descriptors", "ulimit -n 3; " + line, 0, ""},
		{"no time", strings.Replace(hookfile.Command("claude-code"), hookfile.Shim, hurried, 1), 0, ""},
		{"closed output", strings.Replace(line, " ||", " >&- ||", 1), 0, "no verdict"},
		{"closed outputs", strings.Replace(line, " ||", " >&- 2>&- ||", 1), 0, ""},
		{"closed input", strings.Replace(line, " ||", " <&- ||", 1), 0, "no verdict"},
		// By the program itself, or where the signal was sooner, by the line around it.
		{"terminated", line, syscall.SIGTERM, "ended "},
		{"interrupted", line, syscall.SIGINT, "ended "},
		{"hung up", line, syscall.SIGHUP, "ended "},
		{"quit", line, syscall.SIGQUIT, "SIGQUIT"},
		{"killed", line, syscall.SIGKILL, "ended with status 137"},
		{"aborted", line, syscall.SIGABRT, "SIGABRT"},
		{"faulted", line, syscall.SIGSEGV, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command("sh", "-c", tt.line)
			cmd.Env = append(os.Environ(), "OUTCALL_AGENT_SOCK="+filepath.Join(t.TempDir(), "none"), "GOTRACEBACK=none")
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if tt.signal == 0 {
				io.WriteString(in, call)
				in.Close()
			} else if err := syscall.Kill(started(t, cmd.Process.Pid, bin), tt.signal); err != nil {
				t.Fatal(err)
			}
			cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != 2 || !strings.Contains(out.String(), tt.want) {
				t.Errorf("code %d, %s; want 2 and %q", code, out.String(), tt.want)
			}
		})
	}
}

// started waits for the shell's child to be the program and to catch signals.
func started(t *testing.T, shell int, bin string) int {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		s := strconv.Itoa(shell)
		out, err := os.ReadFile("/proc/" + s + "/task/" + s + "/children")
		if err != nil {
			continue
		}
		pid := strings.TrimSpace(string(out))
		exe, _ := os.Readlink("/proc/" + pid + "/exe")
		status, _ := os.ReadFile("/proc/" + pid + "/status")
		_, ignored, _ := strings.Cut(string(status), "SigIgn:\t")
		mask, _ := strconv.ParseUint(ignored[:min(16, len(ignored))], 16, 64)
		if exe == bin && mask&(1<<(syscall.SIGPIPE-1)) != 0 { // Main has begun
			time.Sleep(50 * time.Millisecond)
			n, err := strconv.Atoi(pid)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("the program did not start")
	return 0
}
