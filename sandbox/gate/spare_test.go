package gate

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"outcall/sandbox/idmap"
	"outcall/sandbox/view"
)

// waiting lists the stages that wait to become a command.
func waiting() (pids []int) {
	for _, pid := range children() {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && strings.TrimRight(string(text), "\x00") == "outcall\x00"+stageCommand {
			pids = append(pids, pid)
		}
	}
	return pids
}

// The first command's stage waits, has no descriptor of ours but its socket,
// and becomes that command and no other.
func TestFirstStageWaits(t *testing.T) {
	needNamespaces(t)
	c := session(t, options(t))
	pids := waiting()
	if len(pids) != 1 {
		t.Fatalf("%d stages wait after the start, want 1", len(pids))
	}
	for fd := range 3 {
		if to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pids[0], fd)); err != nil || to != "/dev/null" {
			t.Errorf("descriptor %d of the waiting stage: %q %v", fd, to, err)
		}
	}
	for i := range 2 {
		p, err := c.Spawn(deadline(t), Agent, Spec{Argv: []string{"/bin/sleep", "1000"}})
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pids[0]))
		if err != nil || !strings.HasPrefix(string(text), "/bin/sleep\x00") {
			t.Errorf("start %d: the first stage is %q %v", i, text, err)
		}
		if n := len(waiting()); n != 0 {
			t.Errorf("start %d: %d stages wait still", i, n)
		}
		defer func() { _ = c.Signal(deadline(t), p, unix.SIGKILL) }()
	}
}

// A stage that is killed while it waits is a command that did not start.
func TestWaitingStageIsKilled(t *testing.T) {
	needNamespaces(t)
	c := session(t, options(t))
	for _, pid := range waiting() {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	p, err := c.Spawn(deadline(t), Agent, Spec{Argv: []string{"/bin/sleep", "1000"}})
	var se *StageError
	if p != nil || !errors.As(err, &se) || se.Stage != StageCommand {
		t.Errorf("%v, want an error of stage %q", err, StageCommand)
	}
	if out := sh(t, c, "echo next"); out != "next" {
		t.Errorf("the next command: %q", out)
	}
}

// What was launched and is not needed leaves nothing, however early that turns
// out.
func TestDiscardedLaunch(t *testing.T) {
	needNamespaces(t)
	for range 3 {
		Launch(deadline(t), options(t).IDs).Discard()
		if kids := children(); len(kids) != 0 {
			t.Fatalf("processes are left: %v", kids)
		}
	}
}

// A gatekeeper that is ended at any moment of its start leaves nothing to the
// next reaper above it, also without a pid namespace around what it started.
func TestClosedWhileTheViewIsMade(t *testing.T) {
	needNamespaces(t)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) }()
	for _, weak := range []bool{false, true} {
		o := options(t, func(_ *idmap.Request, v *view.Options) { v.WeakProc = weak })
		for i := range 40 {
			c, err := Launch(deadline(t), o.IDs).Begin(deadline(t), o)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(i) * 750 * time.Microsecond)
			if err := c.Close(); err != nil {
				t.Errorf("without proc %v, closed after %d steps: %v", weak, i, err)
			}
			for _, p := range processes() {
				if p.parent == os.Getpid() {
					text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
					t.Errorf("without proc %v, closed after %d steps: left: %s", weak, i, text)
					_, _ = unix.Wait4(p.pid, nil, 0, nil)
				}
			}
		}
	}
}
