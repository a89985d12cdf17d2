package session

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary is also a session that can be killed.
func TestMain(m *testing.M) {
	if os.Getenv("SESSION_CHILD") != "" {
		s, err := Create(context.Background(), HostEnv(), Options{Name: os.Getenv("SESSION_CHILD"), Command: []string{"x"}})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("holding", s.Dir)
		select {}
	}
	os.Exit(m.Run())
}

func testEnv(t *testing.T) Env {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return Env{UID: os.Geteuid(), RuntimeDir: dir, TempDir: dir, Home: filepath.Join(dir, "home")}
}

func mustCreate(t *testing.T, e Env, o Options) *Session {
	t.Helper()
	if o.Command == nil {
		o.Command = []string{"/usr/bin/agent", "arg"}
	}
	s, err := Create(t.Context(), e, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCheckName(t *testing.T) {
	for _, ok := range []string{"a", "agent-1", "A.b_c-9", "-x", ".hidden", "...", strings.Repeat("x", 64)} {
		if err := CheckName(ok); err != nil {
			t.Errorf("%q: %v", ok, err)
		}
	}
	for _, bad := range []string{"", ".", "..", "a/b", "a b", "ä", "a\x00", "a\n", "lock~", strings.Repeat("x", 65)} {
		if CheckName(bad) == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestAgentName(t *testing.T) {
	for _, tt := range []struct{ given, argv0, want string }{
		{"foobar-1", "x", "foobar"},
		{"my-agent-12", "x", "my-agent"},
		{"project-001", "x", "project"},
		{"project-final", "x", "project-final"},
		{"project-", "x", "project-"},
		{"standalone", "x", "standalone"},
		{"-1", "x", "-1"},
		{"", "/usr/bin/claude", "claude"},
		{"", "./my agent", "my_agent"},
		{"", "", "command"},
		{"", "/", "command"},
		{"", "..", "command"},
	} {
		if got := AgentName(tt.given, tt.argv0); got != tt.want {
			t.Errorf("AgentName(%q, %q) = %q, want %q", tt.given, tt.argv0, got, tt.want)
		}
	}
}

func TestDefaultName(t *testing.T) {
	for _, argv0 := range []string{"/bin/true", "", "a b\x1b[0m", strings.Repeat("long", 40), "日本"} {
		n := DefaultName(argv0)
		if err := CheckName(n); err != nil {
			t.Errorf("DefaultName(%q) = %q: %v", argv0, n, err)
		}
	}
	n := DefaultName("/bin/true")
	if len(n) != len("true-x000") || !strings.HasPrefix(n, "true-") || n[5] < 'a' || n[5] > 'z' || strings.Trim(n[6:], "0123456789abcdef") != "" {
		t.Errorf("DefaultName = %q, want true-<letter><3 hex>", n)
	}
}

func TestPaths(t *testing.T) {
	e := testEnv(t)
	if got, want := e.Root(), filepath.Join(e.RuntimeDir, "outcall"); got != want {
		t.Errorf("Root = %s, want %s", got, want)
	}
	fallback := filepath.Join(e.TempDir, fmt.Sprintf("outcall-%d", e.UID))
	for _, bad := range []string{"", "relative", filepath.Join(e.RuntimeDir, "missing"), "/proc/version"} {
		b := e
		b.RuntimeDir = bad
		if got := b.Root(); got != fallback {
			t.Errorf("Root with XDG_RUNTIME_DIR=%q = %s, want %s", bad, got, fallback)
		}
	}
	os.Chmod(e.RuntimeDir, 0o777)
	if got := e.Root(); got != fallback {
		t.Errorf("a runtime directory that all can write was used: %s", got)
	}
	other := e
	other.UID++
	if got := other.Root(); !strings.HasPrefix(got, other.TempDir+"/outcall-") {
		t.Errorf("another user's runtime directory was used: %s", got)
	}
	if got, want := e.AuditPath("n"), filepath.Join(e.Home, ".local/state/outcall/n/audit.jsonl"); got != want {
		t.Errorf("AuditPath = %s, want %s", got, want)
	}
	e.StateHome = "/state"
	if got := e.AuditPath("n"); got != "/state/outcall/n/audit.jsonl" {
		t.Errorf("AuditPath = %s", got)
	}
	if got := (Env{}).AuditPath("n"); got != "" {
		t.Errorf("AuditPath without a home = %q", got)
	}
}

func TestCreateAndClose(t *testing.T) {
	e := testEnv(t)
	s := mustCreate(t, e, Options{Name: "agent-3"})
	if s.Info.Agent != "agent" || s.Info.Socket != filepath.Join(e.Root(), "agent-3/host.sock") || s.Info.StartTime == 0 {
		t.Errorf("Info = %+v", s.Info)
	}
	for path, mode := range map[string]os.FileMode{e.Root(): 0o700, s.Dir: 0o700, filepath.Join(s.Dir, infoFile): 0o600} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want %v", path, fi.Mode(), err, mode)
		}
	}
	if err := s.SetAudit(t.Context(), "/a/audit.jsonl"); err != nil {
		t.Fatal(err)
	}
	got, err := List(t.Context(), e)
	if err != nil || len(got) != 1 || got[0].Name != "agent-3" || got[0].Audit != "/a/audit.jsonl" ||
		got[0].PID != os.Getpid() || !slices.Equal(got[0].Command, []string{"/usr/bin/agent", "arg"}) {
		t.Errorf("List = %+v, %v", got, err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(s.Dir); !os.IsNotExist(err) {
		t.Errorf("the directory is left: %v", err)
	}
	if got, err := List(t.Context(), e); err != nil || len(got) != 0 {
		t.Errorf("List after Close = %v, %v", got, err)
	}
}

func TestLiveName(t *testing.T) {
	e := testEnv(t)
	s := mustCreate(t, e, Options{Name: "one"})
	_, err := Create(t.Context(), e, Options{Name: "one", Command: []string{"x"}})
	if le, ok := errors.AsType[*LiveError](err); !ok || le.Info.PID != os.Getpid() {
		t.Errorf("second session of the name: %v", err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := mustCreate(t, e, Options{Name: "one"})
	again.Close(t.Context())
}

// Of many runs of one name at once exactly one lives, whoever sweeps
// meanwhile.
func TestCreateRace(t *testing.T) {
	e := testEnv(t)
	var won atomic.Int32
	var mu sync.Mutex
	var held []*Session
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			if i%4 == 3 {
				if _, err := List(t.Context(), e); err != nil {
					t.Errorf("List: %v", err)
				}
				return
			}
			s, err := Create(t.Context(), e, Options{Name: "same", Command: []string{"x"}})
			if err == nil {
				won.Add(1)
				mu.Lock()
				held = append(held, s)
				mu.Unlock()
			} else if _, ok := errors.AsType[*LiveError](err); !ok {
				t.Errorf("Create: %v", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d sessions of one name", won.Load())
	}
	for _, s := range held {
		s.Close(t.Context())
	}
}

// Sessions come and go at once, each removing what it can: no Create fails,
// and in the end nothing is left, not even the root.
func TestNothingIsLeft(t *testing.T) {
	e := testEnv(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 40 {
				s, err := Create(t.Context(), e, Options{Command: []string{"x"}})
				if err != nil {
					t.Error(err)
					return
				}
				if live, err := List(t.Context(), e); err != nil || !slices.ContainsFunc(live, func(i Info) bool { return i.Name == s.Info.Name }) {
					t.Errorf("a live session is not listed: %v", err)
				}
				if err := s.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if _, err := os.Lstat(e.Root()); !os.IsNotExist(err) {
		entries, _ := os.ReadDir(e.Root())
		t.Errorf("left behind: %v (%v)", entries, err)
	}
}

// Unnamed sessions in parallel get names of their own.
func TestCreateUnnamed(t *testing.T) {
	e := testEnv(t)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			s, err := Create(t.Context(), e, Options{Command: []string{"/bin/true"}})
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { s.Close(context.Background()) })
			if s.Info.Agent != "true" {
				t.Errorf("agent %q", s.Info.Agent)
			}
		})
	}
	wg.Wait()
	if live, err := List(t.Context(), e); err != nil || len(live) != 20 {
		t.Errorf("%d live, %v", len(live), err)
	}
}

// A killed supervisor's directory is removed, and its name can be used again
// at once.
func TestKilled(t *testing.T) {
	e := testEnv(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"SESSION_CHILD=victim", "XDG_RUNTIME_DIR=" + e.RuntimeDir}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	sc := bufio.NewScanner(out)
	if !sc.Scan() || !strings.HasPrefix(sc.Text(), "holding ") {
		t.Fatalf("the child says %q", sc.Text())
	}
	if _, err := Create(t.Context(), e, Options{Name: "victim", Command: []string{"x"}}); err == nil {
		t.Fatal("the name of another live process was taken")
	}
	dir := strings.TrimPrefix(sc.Text(), "holding ")
	os.WriteFile(filepath.Join(dir, "host.sock"), nil, 0o600)
	os.MkdirAll(filepath.Join(dir, "tmp/deep"), 0o700)
	cmd.Process.Kill()
	cmd.Wait()
	live, err := List(t.Context(), e)
	if err != nil || len(live) != 0 {
		t.Errorf("List = %v, %v", live, err)
	}
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("the stale directory is left: %v", err)
	}
}

func TestStaleKeepsAudit(t *testing.T) {
	e := testEnv(t)
	s := mustCreate(t, e, Options{Name: "a"})
	os.WriteFile(filepath.Join(s.Dir, "audit.jsonl"), []byte("{}\n"), 0o600)
	s.file.Close() // as if killed
	if _, err := List(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(s.Dir, "audit.jsonl")); err != nil {
		t.Errorf("the audit log of a dead session is gone: %v", err)
	}
	if _, err := os.Stat(filepath.Join(s.Dir, infoFile)); err == nil {
		t.Error("session.json is left")
	}
}

// The sweep follows no symlink and touches nothing but sessions.
func TestSweepTouchesNothingElse(t *testing.T) {
	e := testEnv(t)
	s := mustCreate(t, e, Options{Name: "dead"})
	s.file.Close()
	victim := filepath.Join(t.TempDir(), "keep")
	os.WriteFile(victim, []byte("x"), 0o600)
	os.Symlink(filepath.Dir(victim), filepath.Join(e.Root(), "linked"))
	os.Symlink(filepath.Dir(victim), filepath.Join(s.Dir, "linked"))
	os.WriteFile(filepath.Join(e.Root(), "file"), nil, 0o600)
	if _, err := List(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{victim, filepath.Join(e.Root(), "file"), filepath.Join(e.Root(), "linked")} {
		if _, err := os.Lstat(p); err != nil {
			t.Errorf("%s is gone", p)
		}
	}
}

func TestOwnSocket(t *testing.T) {
	e := testEnv(t)
	dir := filepath.Join(t.TempDir(), "d")
	sock := filepath.Join(dir, "h.sock")
	s := mustCreate(t, e, Options{Name: "a", Socket: sock})
	if err := CheckPrivateDir(dir, e.UID); err != nil {
		t.Error(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: sock})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if _, err := Create(t.Context(), e, Options{Name: "b", Socket: sock, Command: []string{"x"}}); err == nil {
		t.Fatal("the socket of a live session was taken")
	}
	l.Close()
	s.file.Close() // killed: the socket stays behind
	s = mustCreate(t, e, Options{Name: "b", Socket: sock})
	defer s.Close(t.Context())
	if _, err := os.Lstat(sock); !os.IsNotExist(err) {
		t.Errorf("the stale socket is left: %v", err)
	}
	os.WriteFile(sock+".txt", nil, 0o600)
	if s, err := Create(t.Context(), e, Options{Name: "c", Socket: sock + ".txt", Command: []string{"x"}}); err != nil {
		t.Error(err)
	} else {
		s.Close(t.Context())
	}
	if _, err := os.Lstat(sock + ".txt"); err != nil {
		t.Error("a file that is no socket was removed")
	}
	os.Chmod(dir, 0o755)
	if _, err := Create(t.Context(), e, Options{Name: "d", Socket: filepath.Join(dir, "x"), Command: []string{"x"}}); err == nil || !strings.Contains(err.Error(), "0700") {
		t.Errorf("a socket directory that others can read: %v", err)
	}
}

func TestForeignDirectories(t *testing.T) {
	for name, spoil := range map[string]func(root string){
		"file":    func(r string) { os.WriteFile(r, nil, 0o600) },
		"symlink": func(r string) { os.Symlink("/tmp", r) },
		"mode":    func(r string) { os.Mkdir(r, 0o700); os.Chmod(r, 0o755) },
		"owner":   func(r string) { os.Mkdir(r, 0o700); os.Chown(r, 65534, 65534) },
	} {
		if name == "owner" && os.Geteuid() != 0 {
			continue // only root can give a directory away; "mode" takes the same branch
		}
		t.Run(name, func(t *testing.T) {
			e := testEnv(t)
			spoil(e.Root())
			if _, err := Create(t.Context(), e, Options{Name: "a", Command: []string{"x"}}); err == nil {
				t.Error("Create took it")
			}
			if _, err := List(t.Context(), e); err == nil {
				t.Error("List took it")
			}
		})
	}
}

func TestPick(t *testing.T) {
	e := testEnv(t)
	pick := func(name, want string) {
		t.Helper()
		i, err := Pick(t.Context(), e, name)
		got := i.Name
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("Pick(%q) = %s, want %s", name, got, want)
		}
	}
	pick("", "no session is running")
	pick("x", `session "x" is not running (no session is running)`)
	a := mustCreate(t, e, Options{Name: "a"})
	defer a.Close(t.Context())
	pick("", "a")
	b := mustCreate(t, e, Options{Name: "b"})
	defer b.Close(t.Context())
	pick("b", "b")
	pick("", "several sessions are running, name one with --session: a, b")
	pick("x", `session "x" is not running (running: a, b)`)
}

func TestLockWaitIsBounded(t *testing.T) {
	e := testEnv(t)
	s := mustCreate(t, e, Options{Name: "a"})
	unlock, err := lockRoot(t.Context(), e.Root())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := List(ctx, e); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("List under another's lock: %v", err)
	}
	unlock()
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// A long command line does not make the file unreadable.
func TestLongCommand(t *testing.T) {
	e := testEnv(t)
	s := mustCreate(t, e, Options{Name: "a", Command: []string{"sh", "-c", strings.Repeat("x", 1<<20)}})
	defer s.Close(t.Context())
	live, err := List(t.Context(), e)
	if err != nil || len(live) != 1 || len(live[0].Command) != 3 || live[0].Command[2] != "…" {
		t.Errorf("List = %d sessions, %v", len(live), err)
	}
}

// A live session whose file is broken is listed by its name and not removed.
func TestBrokenFileOfALiveSession(t *testing.T) {
	e := testEnv(t)
	s := mustCreate(t, e, Options{Name: "a"})
	defer s.Close(t.Context())
	s.file.Truncate(3)
	live, err := List(t.Context(), e)
	if err != nil || len(live) != 1 || live[0].Name != "a" || live[0].Socket == "" {
		t.Errorf("List = %+v, %v", live, err)
	}
}

func TestLockIsNotInherited(t *testing.T) {
	e := testEnv(t)
	s := mustCreate(t, e, Options{Name: "a"})
	defer s.Close(t.Context())
	raw, err := s.file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		if fl, err := unix.FcntlInt(fd, unix.F_GETFD, 0); err != nil || fl&unix.FD_CLOEXEC == 0 {
			t.Errorf("flags %#x, %v: a child would keep the session alive", fl, err)
		}
	})
}

func FuzzInfo(f *testing.F) {
	f.Add([]byte(`{"name":"a","socket":"/x"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := filepath.Join(t.TempDir(), "a")
		os.Mkdir(dir, 0o700)
		os.WriteFile(filepath.Join(dir, infoFile), data, 0o600)
		info, alive, err := look(dir)
		if alive || err != nil || info.Name != "a" {
			t.Fatalf("look = %+v, %v, %v", info, alive, err)
		}
		if _, err := json.Marshal(info); err != nil {
			t.Fatal(err)
		}
	})
}
