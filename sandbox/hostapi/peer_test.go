package hostapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is also the other end of a socket, in whatever namespaces
// and as whatever user the test starts it: HOSTAPI_PEER says which part to
// play.
func TestMain(m *testing.M) {
	switch os.Getenv("HOSTAPI_PEER") {
	case "get":
		os.Exit(playGet(os.Args[1]))
	case "listen":
		os.Exit(playListen(os.Args[1]))
	case "connect":
		os.Exit(playConnect(os.Args[1]))
	}
	os.Exit(m.Run())
}

// playGet asks for the session as curl would and prints status and body.
func playGet(path string) int {
	resp, err := plainHTTP(path).Get("http://outcall/api/v1/session")
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	fmt.Println(resp.StatusCode, string(b))
	return 0
}

// playListen serves a socket and prints every byte that arrives on the first
// connection.
func playListen(path string) int {
	l, err := net.Listen("unix", path)
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	fmt.Println("listening")
	c, err := l.Accept()
	if err != nil {
		return 1
	}
	b, _ := io.ReadAll(c)
	fmt.Printf("received %d bytes\n", len(b))
	return 0
}

// playConnect connects, hands its end to nobody, and exits at once.
func playConnect(path string) int {
	if _, err := net.Dial("unix", path); err != nil {
		fmt.Println("error", err)
		return 1
	}
	fmt.Println("connected")
	return 0
}

func peerCommand(t *testing.T, part, path string, attr *syscall.SysProcAttr) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "/proc/self/exe", path)
	cmd.Env = append(os.Environ(), "HOSTAPI_PEER="+part)
	cmd.SysProcAttr = attr
	cmd.Stderr = os.Stderr
	return cmd
}

// below is what the sandbox makes: the same kernel uid in a child user
// namespace. A machine where it cannot be had cannot run outcall either, so
// that is a failure: see `outcall doctor`.
func below(flags uintptr) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | flags,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}},
	}
}

func TestServerRefusesOtherNamespace(t *testing.T) {
	b := &fakeBackend{}
	_, path := serve(t, b)
	for _, tt := range []struct {
		name string
		attr *syscall.SysProcAttr
		want string
	}{
		{"same", nil, "200 "},
		{"child user namespace", below(0), `403 {"ok":false,"error":"forbidden: peer is in another user namespace"}`},
		{"and pid namespace", below(syscall.CLONE_NEWPID), `403 {"ok":false,"error":"forbidden: peer is in another user namespace"}`},
	} {
		before := len(b.noted())
		out, err := peerCommand(t, "get", path, tt.attr).Output()
		if err != nil || !strings.HasPrefix(string(out), tt.want) {
			t.Errorf("%s: %s (%v), want %s", tt.name, out, err, tt.want)
		}
		if asked := len(b.noted()) - before; (asked == 1) != (tt.name == "same") {
			t.Errorf("%s: the backend was asked %d times", tt.name, asked)
		}
	}
}

// Other namespaces than the user namespace may differ (PrivateTmp,
// PrivateNetwork of a unit); only root can make them without a user
// namespace of their own.
func TestServerTakesOtherMountNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("not root: mount and net namespaces alone cannot be made; the same-namespace case of the test above stands in")
		return
	}
	_, path := serve(t, &fakeBackend{})
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	if out, err := peerCommand(t, "get", path, attr).Output(); err != nil || !strings.HasPrefix(string(out), "200 ") {
		t.Errorf("%s, %v", out, err)
	}
}

func TestServerRefusesOtherUID(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("not root: no other uid at hand; TestPeerTable compares uids")
		return
	}
	b := &fakeBackend{}
	_, path := serve(t, b)
	// The mode of socket and directory is the first fence; here it is down.
	os.Chmod(filepath.Dir(path), 0o755)
	os.Chmod(path, 0o666)
	cmd := peerCommand(t, "get", path, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}})
	out, err := cmd.Output()
	if err != nil || !strings.HasPrefix(string(out), `403 {"ok":false,"error":"forbidden: peer has uid 65534, not 0"}`) {
		t.Errorf("%s, %v", out, err)
	}
	if len(b.noted()) != 0 {
		t.Errorf("the backend was asked %q", b.noted())
	}
}

// A peer that is gone when it is looked at is refused.
func TestExitedPeer(t *testing.T) {
	dir := t.TempDir()
	l, err := Listen(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if out, err := peerCommand(t, "connect", l.Addr().String(), nil).Output(); err != nil {
		t.Fatalf("%s, %v", out, err)
	}
	// Output has waited: the peer is reaped before the connection is accepted.
	c, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := CheckPeer(c); err == nil || !strings.Contains(err.Error(), "peer") {
		t.Errorf("CheckPeer of an exited process: %v", err)
	}
}

// A server from inside a sandbox gets no byte of the client.
func TestClientSendsNothingToAStranger(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	cmd := peerCommand(t, "listen", path, below(0))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start a peer in a child user namespace: %v", err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "listening" {
		t.Fatalf("the peer said %q", lines.Text())
	}
	_, err = NewClient(path).Session(t.Context())
	if _, ok := errors.AsType[*PeerError](err); !ok || !strings.Contains(err.Error(), "nothing was sent") {
		t.Errorf("Session = %v, want a refusal", err)
	}
	if !lines.Scan() || lines.Text() != "received 0 bytes" {
		t.Errorf("the stranger says %q", lines.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// The decision itself, over what /proc can say.
func TestPeerTable(t *testing.T) {
	self := func() (string, error) { return fmt.Sprint(os.Getpid()), nil }
	if err := checkStable(self); err != nil {
		t.Errorf("own process: %v", err)
	}
	for _, pid := range []string{"0", "-1", "", "self", "2147483647"} {
		if err := checkStable(func() (string, error) { return pid, nil }); err == nil {
			t.Errorf("pid %q was taken", pid)
		}
	}
	// The peer exits, and its pid is another's, while it is looked at.
	answers := []string{fmt.Sprint(os.Getpid()), fmt.Sprint(os.Getppid())}
	i := 0
	err := checkStable(func() (string, error) { i++; return answers[i-1], nil })
	if err == nil {
		t.Error("a pid that changed was taken")
	}
}

// A program may name itself so as to shift the fields of stat.
func TestStartTimeWithOddName(t *testing.T) {
	want, err := startTime("self")
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tid := strconv.Itoa(syscall.Gettid())
	old, err := os.ReadFile("/proc/self/task/" + tid + "/comm")
	if err != nil {
		t.Fatal(err)
	}
	defer os.WriteFile("/proc/self/task/"+tid+"/comm", old, 0)
	if err := os.WriteFile("/proc/self/task/"+tid+"/comm", []byte("x) R 1 2 3 4 5"), 0); err != nil {
		t.Fatal(err)
	}
	got, err := startTime("self/task/" + tid)
	if err != nil || strings.Trim(got, "0123456789") != "" || len(got) < len(want)-2 {
		t.Errorf("startTime = %q, %v; the process started at %s", got, err, want)
	}
}

// An answer is one JSON object with nothing behind its line.
func TestForbiddenIsAnEnvelope(t *testing.T) {
	_, path := serve(t, &fakeBackend{})
	out, err := peerCommand(t, "get", path, below(0)).Output()
	if err != nil {
		t.Fatal(err)
	}
	var e envelope
	if err := json.Unmarshal(out[len("403 "):], &e); err != nil || e.OK || e.Error == "" {
		t.Errorf("%s: %v", out, err)
	}
}
