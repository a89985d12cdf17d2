package gate

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestCloseEndsEverything(t *testing.T) {
	needNamespaces(t)
	c, err := Start(deadline(t), options(t))
	if err != nil {
		t.Fatal(err)
	}
	mark := fmt.Sprintf("2000.%d", rand.Int32())
	sh(t, c, "setsid sleep "+mark+" </dev/null >/dev/null 2>&1 & (trap '' TERM HUP; exec setsid setsid sleep "+mark+" </dev/null >/dev/null 2>&1) & while ! pgrep -f "+mark+" >/dev/null; do :; done")
	if len(withArg(mark)) == 0 {
		t.Fatal("the command's children are not seen")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if left := withArg(mark); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if kids := children(); len(kids) != 0 {
		t.Errorf("processes are left: %v", kids)
	}
	if _, err := c.Socket(deadline(t), Agent, unix.AF_INET, unix.SOCK_DGRAM, 0); err == nil {
		t.Error("a closed gatekeeper opened a socket")
	}
}

func TestGoneWhenInitDies(t *testing.T) {
	needNamespaces(t)
	for _, who := range []string{"init", "keeper"} {
		c, err := Start(deadline(t), options(t))
		if err != nil {
			t.Fatal(err)
		}
		p, err := c.Spawn(deadline(t), Agent, Spec{Argv: []string{"/bin/sleep", "1000"}})
		if err != nil {
			t.Fatal(err)
		}
		pid := c.Info().InitPID
		if who == "keeper" {
			pid = c.Info().KeeperPID
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		wait(t, c.Gone(), "Gone after the end of "+who)
		wait(t, p.Done(), "the command's end")
		if !p.Status().Signaled() {
			t.Errorf("status %v", p.Status())
		}
		c.Close()
		// init ends when its processes have been reaped. With the keeper killed
		// outright that is for the machine's own pid 1, in its own time.
		eventually(t, 10*time.Second, "gone: init", func() bool { return !alive(c.Info().InitPID) })
	}
}

// probeSupervise is a supervisor of its own, to be killed.
func probeSupervise() error {
	t := &testing.T{}
	o := options(t)
	fmt.Println("starting")
	c, err := Start(context.Background(), o)
	if err != nil {
		return err
	}
	fmt.Println("pids", c.Info().KeeperPID, c.Info().InitPID)
	_, err = c.Spawn(context.Background(), Agent, Spec{Argv: []string{"/bin/sh", "-c", "trap '' HUP TERM; setsid sleep " + os.Args[1] + " & sleep " + os.Args[1]}, Env: []string{"PATH=/bin:/usr/bin"}})
	if err != nil {
		return err
	}
	fmt.Println("running")
	select {}
}

func TestSupervisorIsKilled(t *testing.T) {
	needNamespaces(t)
	for i := range 25 {
		mark := fmt.Sprintf("3000.%d", rand.Int32())
		cmd := exec.Command("/proc/self/exe", mark)
		cmd.Env = append(os.Environ(), envProbe+"=supervise")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// From some point of the start on, up to some point of the run.
		lines := bufio.NewScanner(out)
		for lines.Scan() && lines.Text() != "starting" {
		}
		time.AfterFunc(time.Duration(rand.IntN(90))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		var pids []int
		for lines.Scan() {
			if f := strings.Fields(lines.Text()); len(f) == 3 {
				for _, s := range f[1:] {
					n, _ := strconv.Atoi(s)
					pids = append(pids, n)
				}
			}
		}
		_ = cmd.Wait()
		var left []string
		gone := func() bool {
			left = append(withArg(mark), stages()...)
			for _, pid := range pids {
				if alive(pid) {
					left = append(left, fmt.Sprint(pid))
				}
			}
			return len(left) == 0
		}
		within := time.Now().Add(time.Second)
		for !gone() && time.Now().Before(within) {
			runtime.Gosched()
		}
		if len(left) != 0 {
			for j, p := range left {
				dir := "/proc/" + strings.TrimSuffix(strings.TrimPrefix(p, "/proc/"), "/cmdline")
				stat, _ := os.ReadFile(dir + "/stat")
				args, _ := os.ReadFile(dir + "/cmdline")
				left[j] = fmt.Sprintf("%q %.60q", args, stat)
			}
			t.Fatalf("left in round %d:\n%s", i, strings.Join(left, "\n"))
		}
	}
}

// stages lists the stages of this user that run on the host.
func stages() []string {
	var out []string
	for _, name := range []string{stageHold, stageKeeper, stageInit, stagePid1, stageCommand, stageSession, stageGateway} {
		for _, p := range withArg(name) {
			var st unix.Stat_t
			if unix.Stat(p, &st) == nil && int(st.Uid) == os.Geteuid() {
				out = append(out, p)
			}
		}
	}
	return out
}
