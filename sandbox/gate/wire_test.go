package gate

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func pair(t testing.TB) (a, b *conn) {
	t.Helper()
	a, b, err := connPair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	t.Cleanup(b.close)
	return a, b
}

func openFDs(t testing.TB) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func TestMessagesArrive(t *testing.T) {
	a, b := pair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	doc := commandDoc{Argv: []string{"a\xff", ""}, Env: []string{strings.Repeat("x", 1<<20)}}
	if err := a.sendDoc(&message{Op: opSpawn, ID: 7, Has: [3]bool{1: true}}, doc, int(w.Fd())); err != nil {
		t.Fatal(err)
	}
	w.Close()
	m, fds, err := b.recv()
	if err != nil || m.Op != opSpawn || m.ID != 7 || !m.Has[1] || len(fds) != 2 {
		t.Fatalf("%+v, %v, %v", m, fds, err)
	}
	for _, fd := range fds {
		if fl, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || fl&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d is not close-on-exec", fd)
		}
	}
	var got commandDoc
	if err := readDoc(fds[0], &got); err != nil || got.Argv[0] != "a\xff" || len(got.Env[0]) != 1<<20 {
		t.Errorf("%v, %v", got.Argv, err)
	}
	unix.Close(fds[1])
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Error("the pipe is still open somewhere")
	}
}

func TestEndOfTheOtherSide(t *testing.T) {
	a, b := pair(t)
	a.close()
	if _, _, err := b.recv(); err != io.EOF {
		t.Errorf("recv: %v", err)
	}
	if err := b.send(&message{Op: opReady}); !errors.Is(err, unix.EPIPE) {
		t.Errorf("send: %v", err)
	}
}

func TestMessageLimits(t *testing.T) {
	a, b := pair(t)
	if err := a.send(&message{Op: strings.Repeat("x", maxMessage)}); err == nil {
		t.Error("a message beyond the limit was sent")
	}
	before := openFDs(t)
	// What another program might send: too long, too many descriptors, no JSON.
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	many := make([]int, maxFDs+1)
	for i := range many {
		many[i] = int(null.Fd())
	}
	for _, x := range []struct {
		b   []byte
		fds []int
	}{{make([]byte, maxMessage+1), nil}, {[]byte(`{"op":"spawn"}`), many}, {[]byte("not json"), many[:2]}, {[]byte(`{"op":1}`), nil}} {
		var oob []byte
		if x.fds != nil {
			oob = unix.UnixRights(x.fds...)
		}
		if err := unix.Sendmsg(a.fd, x.b, oob, nil, 0); err != nil {
			t.Fatal(err)
		}
		if m, fds, err := b.recv(); err == nil || fds != nil {
			t.Errorf("taken: %+v, %v", m, fds)
		}
	}
	if after := openFDs(t); after != before+1 {
		t.Errorf("%d descriptors before, %d after (one is this test's own)", before, after)
	}
}

// FuzzMessage: whatever comes, recv neither panics nor keeps a descriptor.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"op":"spawn","id":1,"has":[true,true,false]}`))
	f.Add([]byte(`{"op":"reply","err":{"Stage":"x","Errno":1}}`))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || len(b) > maxMessage {
			return
		}
		x, y := pair(t)
		if err := unix.Sendmsg(x.fd, b, nil, nil, 0); err != nil {
			t.Skip(err)
		}
		m, fds, err := y.recv()
		if (m == nil) == (err == nil) || fds != nil {
			t.Errorf("%+v, %v, %v", m, fds, err)
		}
	})
}

func TestStageErrors(t *testing.T) {
	e := stageErr("bridge", "outcall0", &os.PathError{Op: "open", Path: "/x", Err: unix.EACCES})
	if e.Errno != unix.EACCES || e.Error() != "bridge: outcall0: open /x: permission denied" || !errors.Is(e, unix.EACCES) {
		t.Errorf("%+v: %v", e, e)
	}
	if e := stageErr("x", "", errors.New("words")); e.Error() != "x: words" || errors.Unwrap(e) != nil {
		t.Errorf("%v", e)
	}
	if stageErr("x", "", nil) != nil {
		t.Error("an error of nothing")
	}
	e = stageErr("other", "", &StageError{Stage: "first"})
	if e.Stage != "first" {
		t.Errorf("%v", e)
	}
}

func TestHints(t *testing.T) {
	for _, x := range []struct {
		stage string
		errno unix.Errno
		want  string
	}{
		{StageUserNS, unix.ENOSPC, "max_user_namespaces"}, {StageUserNS, unix.EPERM, "seccomp=unconfined"}, {StageUserNS, unix.EUSERS, "32"},
		{StageUserNS, unix.EINVAL, "CONFIG_USER_NS"}, {StageNetNS, unix.EPERM, "apparmor"}, {StageSysctl, unix.EROFS, "systempaths=unconfined"},
		{StageBridge, unix.EOPNOTSUPP, "modprobe bridge"}, {StageUplink, unix.EOPNOTSUPP, "modprobe veth"}, {StageSeccomp, unix.EINVAL, "CONFIG_SECCOMP_FILTER"},
		{StageHelper, 0, "/etc/subuid"}, {StageCommand, unix.ENOSPC, "max_user_namespaces"}, {StageInit, unix.EAGAIN, "ulimit -u"},
		{StageTap, unix.EACCES, "chmod 0666 /dev/net/tun"}, {StageTap, unix.ENOENT, "modprobe tun"}, {StageTap, unix.EINVAL, "CONFIG_TUN"},
		{StagePacket, unix.EAFNOSUPPORT, "--link tap"},
		{StageNetNS, unix.ENOSPC, "sysctl -w user.max_net_namespaces"},
	} {
		if got := hint(&StageError{Stage: x.stage, Errno: x.errno}); !strings.Contains(strings.ToLower(got), strings.ToLower(x.want)) {
			t.Errorf("%s, %v: %q does not speak of %q", x.stage, x.errno, got, x.want)
		}
	}
	p := AppArmorProfile("/opt/my dir/outcall")
	for _, want := range []string{`profile outcall "/opt/my dir/outcall" flags=(unconfined)`, "userns,", "apparmor_parser"} {
		if !strings.Contains(p, want) {
			t.Errorf("%q is missing in\n%s", want, p)
		}
	}
	if e := blame(&StageError{Stage: StageNetNS, Errno: unix.EPERM, Hint: "h"}).(*StageError); e.Stage != StageUserNS || e.Hint != "h" || e.Detail != "granted without capabilities" {
		t.Errorf("%+v", e)
	}
}
