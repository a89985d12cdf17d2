package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"outcall/integration/harness"
)

// parkDescriptors puts descriptors in flight until the kernel refuses more. The
// count goes by uid, over all namespaces.
const parkDescriptors = `
import array, os, resource, socket, time
n, keep = 0, []
fds = array.array("i", [os.open("/dev/null", os.O_RDONLY)] * 200)
try:
    while n < 40000:
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        a.setblocking(False)
        keep.append((a, b))
        a.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        n += len(fds)
except OSError as e:
    print("parked", n, e.strerror, flush=True)
print("holding", flush=True)
time.sleep(1000)
`

// forkBomb is bounded by itself: the test is about what others can still do.
const forkBomb = `
import os, time
n = 0
try:
    while n < 400:
        if os.fork() == 0:
            time.sleep(1000)
        n += 1
except OSError as e:
    print("refused at", n, e.strerror, flush=True)
print("holding", flush=True)
time.sleep(1000)
`

// epollWatches adds watches in many instances; a million is too much for a
// test, but the operator's calls need some of the same count all the same.
const epollWatches = `
import os, resource, select, time
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
pipes = [os.pipe()[0] for _ in range(200)]
n, keep = 0, []
try:
    for _ in range(500):
        e = select.epoll()
        keep.append(e)
        for p in pipes:
            e.register(p, select.EPOLLIN)
            n += 1
except OSError as e:
    print("refused at", n, e.strerror, flush=True)
print("holding", flush=True)
time.sleep(1000)
`

// K9: what the kernel counts by uid, used up from inside. A flow that lives
// goes on, and the operator is answered.
func TestK9SharedBudgets(t *testing.T) {
	for name, program := range map[string]string{"descriptors": parkDescriptors, "processes": forkBomb, "watches": epollWatches} {
		t.Run(name, func(t *testing.T) {
			b := harness.New(t)
			rules := b.Rules("p.yaml", allowRule("api.allowed.test"))
			script := fmt.Sprintf("python3 -c '%s' & while sleep 0.2; do curl -sS --max-time 20 https://api.allowed.test/ >/dev/null && echo fetched; done", program)
			p := b.StartSandbox([]string{"-q", "--rules", rules}, "sh", "-c", script)
			p.WaitFor("holding")
			for _, args := range [][]string{{"ps"}, {"bridge", "--session", p.Name, "status"}, {"rules", "--session", p.Name, "reload"}} {
				within(t, strings.Join(args, " "), 10*time.Second, func() {
					if r := b.Outcall(args...); r.Code != 0 {
						t.Errorf("%v: code %d: %s", args, r.Code, r.Stderr)
					}
				})
			}
			p.WaitFor("holding\nfetched\nfetched")
			within(t, "stop", 15*time.Second, func() {
				b.Outcall("stop", p.Name).Must(t, 0)
				p.Wait()
			})
		})
	}
}

// hostileLoop opens every entry of /proc/*/{fd,root,exe,mem,cwd,environ} that
// it is given, tries to trace the process, and tells what it got.
const hostileLoop = `
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
own, rounds, seen = os.getpid(), 0, set()
rootdev = (os.stat("/").st_dev, os.stat("/").st_ino)
print("ready", flush=True)
while rounds < %d:
    rounds += 1
    # What has just begun, also where /proc does not list it.
    with open("/proc/sys/kernel/ns_last_pid") as f:
        last = int(f.read())
    for pid in set(os.listdir("/proc")) | {str(n) for n in range(max(1, last - 6), last + 3)} | {"1"}:
        if not pid.isdigit() or int(pid) in (own, os.getppid()):
            continue
        for what in ("root", "cwd", "exe", "mem", "environ", "fd", "ns/net"):
            path = "/proc/%%s/%%s" %% (pid, what)
            try:
                if what == "fd":
                    for n in os.listdir(path):
                        seen.add("fd " + os.readlink(path + "/" + n))
                elif what == "ns/net" or what == "cwd":
                    seen.add(what + " " + os.readlink(path))
                else:
                    os.close(os.open(path, os.O_RDONLY))
                    seen.add(what)
            except OSError:
                pass
        if libc.ptrace(16, int(pid), 0, 0) == 0:
            seen.add("traced")
            libc.ptrace(17, int(pid), 0, 0)
print("rounds", rounds, flush=True)
for s in sorted(seen):
    print("SEEN", s, flush=True)
`

// k22Rounds is how often the loop looks through /proc.
const k22Rounds = 10000

// K22: while commands are started by exec, a loop inside looks for a moment in
// which one of their stages can be looked into.
func TestK22LoopWhileExecStarts(t *testing.T) {
	b := harness.New(t)
	p := b.StartSandbox(allowAPI, "python3", "-c", fmt.Sprintf(hostileLoop, k22Rounds))
	p.WaitFor("ready")
	execs := 0
	for over := false; !over; execs++ {
		select {
		case <-p.Done():
			over = true
		default:
			b.Outcall("exec", p.Name, "--", "true")
		}
	}
	r := p.Wait().Must(t, 0)
	mustContain(t, "stdout", r.Stdout, fmt.Sprint("rounds ", k22Rounds))
	mustLack(t, "K22", r.Stdout, "SEEN")
	if execs < 10 {
		t.Errorf("only %d commands were started meanwhile", execs)
	}
}
