package integration

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// K1: listeners on the host's paths, made before the session.
func TestK1PathSockets(t *testing.T) {
	b := harness.New(t)
	paths := []string{"/tmp/.X11-unix/X9", "/tmp/agent.sock", b.Home + "/agent.sock", b.Home + "/.gnupg/S.gpg-agent", b.Work + "/s"}
	for _, p := range paths {
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	defer os.RemoveAll("/tmp/.X11-unix")
	defer os.Remove("/tmp/agent.sock")
	// One is bound by a relative name: the kernel lists it without directory.
	listener := b.Program(harness.Probe, append([]string{"listen", "relative.sock", "@abstract-on-host"}, paths...)...)
	listener.Dir = b.Home
	host := b.Start(listener)
	host.WaitFor("listening")
	args := append(append([]string{"unix"}, paths...), b.Home+"/relative.sock", "@abstract-on-host")
	_, lines := b.Attempts(allowAPI, args...)
	harness.Refused(t, lines, 1000)
	if len(lines) != len(args)-1 {
		t.Errorf("%d attempts of %d", len(lines), len(args)-1)
	}
	// The proof that the listeners work, and would have told.
	b.Start(b.Program(harness.Probe, "unix", b.Home+"/agent.sock")).Wait()
	host.WaitFor("accepted at")
	host.Cmd.Process.Kill()
	if got := strings.Count(host.Wait().Stdout, "accepted at"); got != 1 {
		t.Errorf("K1: %d connections on the host, of which one is the test's own", got)
	}
}

// K1: a terminal multiplexer's server on the host would run commands there.
func TestK1TmuxServer(t *testing.T) {
	b := harness.New(t)
	server := b.Program("tmux", "-L", "default", "new-session", "-d", "sleep 1000")
	if r := b.Start(server).Wait(); r.Code != 0 {
		t.Fatalf("tmux: %s", r.Stderr)
	}
	socket := fmt.Sprintf("/tmp/tmux-%d/default", os.Getuid())
	defer func() {
		b.Start(b.Program("tmux", "-L", "default", "kill-server")).Wait()
		os.RemoveAll(filepath.Dir(socket))
	}()
	if _, err := os.Stat(socket); err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(b.Home, "ran-on-host")
	b.Sandbox(allowAPI, "tmux", "-S", socket, "run-shell", "touch "+mark)
	if _, err := os.Stat(mark); err == nil {
		t.Error("K1: the host's tmux ran a command for the inside")
	}
}

// K2: what is handed in as descriptors 0-2.
func TestK2ConnectedSocket(t *testing.T) {
	b := harness.New(t)
	k := b.Canary(t)
	c, err := net.Dial("tcp", at(b.V4(t, "evil.test"), b.Ports.Echo))
	if err != nil {
		t.Fatal(err)
	}
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	defer c.Close()
	m := b.Mark()
	cmd, _ := b.SandboxCommand(allowAPI, harness.Probe, "reconnect", at(b.V4(t, "www.evil.test"), 443))
	cmd.Stdin = f
	harness.Refused(t, b.Start(cmd).Wait().Lines(t), 2000)
	b.MustBeQuiet(t, m, func(f world.Frame) bool { return f.Dst.Port() == b.Ports.Echo })

	// Bytes still flow where they should.
	c.Write([]byte("from the host\n"))
	cmd, _ = b.SandboxCommand(allowAPI, "head", "-n1")
	cmd.Stdin = f
	if r := b.Start(cmd).Wait(); r.Stdout != "from the host\n" {
		t.Errorf("stdin over a socket: %q %s", r.Stdout, r.Stderr)
	}
	k.MustNotArrive(t)
}

func TestK2UnixDatagramSocket(t *testing.T) {
	b := harness.New(t)
	victim, err := net.ListenPacket("unixgram", "@k2-victim")
	if err != nil {
		t.Fatal(err)
	}
	defer victim.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	mine, theirs := os.NewFile(uintptr(pair[0]), "mine"), os.NewFile(uintptr(pair[1]), "theirs")
	defer mine.Close()
	defer theirs.Close()
	cmd, _ := b.SandboxCommand(allowAPI, harness.Probe, "unixgram", "@k2-victim")
	cmd.Stdin = theirs
	harness.Refused(t, b.Start(cmd).Wait().Lines(t), 2000)
}

func TestK2ReopenedFile(t *testing.T) {
	b := harness.New(t)
	path := b.Write("input", "some input\n")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd, _ := b.SandboxCommand(allowAPI, harness.Probe, "reopen")
	cmd.Stdin = f
	lines := b.Start(cmd).Wait().Lines(t)
	if len(lines) != 2 || lines[1].Data != "some input\n" {
		t.Errorf("stdin from a file: %+v", lines)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "some input\n" {
		t.Errorf("K2: the file was changed: %q %v", got, err)
	}
}

func TestK2DirectoryIsRefused(t *testing.T) {
	b := harness.New(t)
	f, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd, _ := b.SandboxCommand(allowAPI, "echo", "ran")
	cmd.Stdin = f
	r := b.Start(cmd).Wait().Must(t, 125)
	mustLack(t, "stdout", r.Stdout, "ran")
	mustContain(t, "message", r.Stderr, "directory")
}

func TestK2NoOtherDescriptors(t *testing.T) {
	b := harness.New(t)
	extra, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	cmd, _ := b.SandboxCommand(allowAPI, harness.Probe, "fds")
	cmd.ExtraFiles = []*os.File{extra, extra}
	lines := b.Start(cmd).Wait().Lines(t)
	if len(lines) != 1 {
		t.Fatalf("%+v", lines)
	}
	for l := range strings.Lines(lines[0].Data) {
		if n := strings.Fields(l)[0]; n > "2" || len(n) > 1 {
			t.Errorf("K2: a descriptor more: %s", l)
		}
	}
}

// K3: signals to process groups cross pid namespaces.
func TestK3GroupSignals(t *testing.T) {
	b := harness.New(t)
	for _, args := range [][]string{{"9", "0"}, {"9", "-1"}, {"10", "0"}, {"15", "-1"}} {
		script := fmt.Sprintf("%s run -q --name %s -- %s signal %s %s; (%s run -q --name %s -- sh -c '(%s signal %s %s &) ; true'); echo shell lives",
			harness.Outcall, b.NewName(), harness.Probe, args[0], args[1], harness.Outcall, b.NewName(), harness.Probe, args[0], args[1])
		r := b.Start(b.Program("sh", "-c", script)).Wait()
		if r.Code != 0 || !strings.Contains(r.Stdout, "shell lives") {
			t.Errorf("K3: kill(%s, %s) inside ended the caller's shell: %d %s", args[1], args[0], r.Code, r.Stderr)
		}
	}
}

// K4: pid 1 inside.
func TestK4SignalsToInit(t *testing.T) {
	b := harness.New(t)
	r := b.Sandbox(harness.Allow("api.allowed.test"), "sh", "-c", harness.Probe+" signals; curl -sS https://api.allowed.test/")
	if r.Code == 0 {
		mustContain(t, "stdout", r.Stdout, apiBody)
	} else if r.Code != 125 {
		t.Errorf("K4: code %d", r.Code)
	}
	mustLack(t, "stderr", r.Stderr, "goroutine ", "SIGQUIT")
	mustLack(t, "stdout", r.Stdout, "goroutine ", "SIGQUIT")
}

// K5: what no namespace holds.
func TestK5KernelDoors(t *testing.T) {
	b := harness.New(t)
	id, err := unix.KeyctlJoinSessionKeyring("k5")
	if err == nil {
		_, err = unix.AddKey("user", "k5-secret", []byte("secret"), id)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, lines := b.Attempts(allowAPI, "keys", "k5-secret", "evil.test")
	harness.Refused(t, lines, 1000)
	_, lines = b.Attempts(allowAPI, "iouring")
	harness.Refused(t, lines, 1000)
	_, lines = b.Attempts(allowAPI, "calls")
	harness.Refused(t, lines, 1000)
	_, lines = b.Attempts(allowAPI, "families")
	for _, f := range strings.Fields(lines[0].Data) {
		switch family, _, _ := strings.Cut(f, "/"); family {
		case "1", "2", "10", "16":
		default:
			t.Errorf("K5: socket family/type %s", f)
		}
	}
	mustContain(t, "families", lines[0].Data, "1/1", "2/1", "10/1", "16/")
	if r := b.Sandbox(allowAPI, harness.Probe, "foreign", "x32"); r.Code == 0 {
		for _, l := range r.Lines(t) {
			if l.OK {
				t.Errorf("K5: an x32 call was made: %+v", l)
			}
		}
	}
	r := b.Sandbox(allowAPI, "sh", "-c", "ls /dev; find /sys/fs/cgroup -writable -type f 2>/dev/null | head -3").Must(t, 0)
	for _, d := range strings.Fields(r.Stdout) {
		switch d {
		case "console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero":
		default:
			t.Errorf("K5: /dev or a writable cgroup file: %s", d)
		}
	}
}

// K7: the operator's files, by every way of writing, and by every ancestor.
func TestK7OperatorsFiles(t *testing.T) {
	b := harness.New(t)
	rules := b.Write("work/policy.yaml", "version: \"1\"\nrules:\n"+allowRule("api.allowed.test"))
	config := b.Write(".config/outcall/rules.d/a.yaml", "version: \"1\"\nrules: []\n")
	project := b.Write("work/.outcall/rules/p.yaml", "version: \"1\"\nrules: []\n")
	state := b.Write(".local/state/outcall/older/audit.jsonl", "{}\n")
	files := []string{rules, config, project, state, harness.Outcall}
	before := hashes(t, files)
	args := append([]string{"write"}, files...)
	b.Sandbox([]string{"-q", "--rules", rules}, append([]string{harness.Probe}, args...)...)
	same(t, before, hashes(t, files))
	b.Sandbox([]string{"-q", "--rules", rules}, append([]string{harness.Probe, "replace"}, files...)...)
	same(t, before, hashes(t, files))
	for _, dir := range []string{".config/outcall/rules.d", ".local/state/outcall/older", "work/.outcall/rules"} {
		entries, err := os.ReadDir(filepath.Join(b.Home, dir))
		if err != nil || len(entries) != 1 {
			t.Errorf("K7: %s holds %v %v", dir, entries, err)
		}
	}
	r := b.Sandbox([]string{"-q", "--rules", rules}, curl("https://evil.test/")...)
	if r.Code == 0 {
		t.Error("K7: the next run lets more through")
	}
}

func hashes(t *testing.T, files []string) map[string]string {
	t.Helper()
	got := map[string]string{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			got[f] = err.Error()
			continue
		}
		st, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		got[f] = fmt.Sprintf("%x %v", sha256.Sum256(data), st.Mode()&fs.ModePerm)
	}
	return got
}

func same(t *testing.T, before, after map[string]string) {
	t.Helper()
	for f, h := range before {
		if after[f] != h {
			t.Errorf("K7: %s was %s, is %s", f, h, after[f])
		}
	}
}

// K7, second part: a .outcall/ made inside is not trusted later.
func TestK7ProjectRulesMadeInside(t *testing.T) {
	b := harness.New(t)
	b.Sandbox(allowAPI, "sh", "-c", `mkdir -p .outcall/rules && printf 'version: "1"\nrules:\n- {id: x, condition: "true", action: allow}\n' > .outcall/rules/x.yaml`)
	m := b.Mark()
	r := b.Sandbox(nil, curl("https://evil.test/")...)
	if r.Code == 0 {
		t.Error("K7: rules written inside were loaded")
	}
	b.MustBeQuiet(t, m, nil)
}

// K8: the operator's socket.
func TestK8HostSocket(t *testing.T) {
	b := harness.New(t)
	p := b.StartSandbox(allowAPI, "sh", "-c", "echo ready; exec sleep 1000")
	in := b.Runtime + "/outcall/" + p.Name + "/host.sock"
	p.WaitFor("ready")
	if _, err := os.Stat(in); err != nil {
		t.Fatalf("host.sock: %v", err)
	}
	if r := b.Outcall("ps"); !strings.Contains(r.Stdout, p.Name) {
		t.Errorf("ps: %q %s", r.Stdout, r.Stderr)
	}
	// From inside another session: not there.
	_, lines := b.Attempts(allowAPI, "unix", in)
	harness.Refused(t, lines, 1000)
	// From a user namespace on the host: there, and 403.
	r := b.Start(b.Program("unshare", "-Ur", "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", in, "http://x/api/v1/session")).Wait()
	if r.Stdout != "403" {
		t.Errorf("K8: a process of another user namespace got %q %s", r.Stdout, r.Stderr)
	}
	r = b.Start(b.Program("curl", "-sS", "--unix-socket", in, "http://x/api/v1/session")).Wait()
	mustContain(t, "session", r.Stdout, `"ok":true`)
	b.Outcall("stop", p.Name).Must(t, 0)
	p.Wait()
}
