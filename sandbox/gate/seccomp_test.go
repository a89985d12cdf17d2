package gate

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"outcall/sandbox/view"
)

func TestSocketFamilies(t *testing.T) {
	c := inside(t)
	allowed := map[string]bool{"1": true, "2": true, "10": true, "16": true, "17": true}
	for _, line := range strings.Split(probe(t, c, "families"), "\n") {
		family, _, _ := strings.Cut(line, "/")
		if !allowed[family] {
			t.Errorf("a socket of family %s", line)
		}
	}
}

func TestFilteredCalls(t *testing.T) {
	c := inside(t)
	want := `io_uring_setup ENOSYS
io_uring_enter ENOSYS
io_uring_register ENOSYS
add_key ENOSYS
request_key ENOSYS
keyctl ENOSYS
bpf EPERM
perf_event_open EPERM
userfaultfd EPERM
TIOCSTI EPERM
TIOCSTI-high EPERM
TIOCLINUX EPERM
vsock EAFNOSUPPORT
vsock-high EAFNOSUPPORT`
	if got := probe(t, c, "calls"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	_, ws := run(t, c, Agent, Spec{Argv: []string{view.BinDir + "/outcall"}, Env: []string{envProbe + "=x32"}})
	if !ws.Signaled() || ws.Signal() != unix.SIGSYS {
		t.Errorf("an x32 call: %v, want SIGSYS", ws)
	}
}
