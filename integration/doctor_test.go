package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// doctorLayers are the names that scripts may rely on, in their order.
var doctorLayers = []string{
	"kernel", "identity", "session directory", "state directory", "resolver", "upstream proxy", "IPv4 route", "IPv6 route",
	"user namespace", "capabilities", "network namespace", "mount and pid namespaces", "proc", "view", "bridge and routes",
	"packet socket", "tap device", "nftables", "NFLOG", "attribution", "host socket", "command namespace", "seccomp filter",
	"refused calls", "round trip", "subordinate ids", "protocols", "session",
}

// A checkup is what doctor --json printed.
type checkup struct {
	Starts bool `json:"starts"`
	Layers []struct{ Name, Status, Got, Mend string }
}

func (c checkup) names(status string) (out []string) {
	for _, l := range c.Layers {
		if l.Status == status {
			out = append(out, l.Name)
		}
	}
	return out
}

func (c checkup) mend(name string) string {
	for _, l := range c.Layers {
		if l.Name == name {
			return l.Mend
		}
	}
	return ""
}

// readCheckup demands what holds on every machine: the layers and their order,
// a word of the four and something got for each, and the exit code.
func readCheckup(t *testing.T, b *harness.Bed, r harness.Result) checkup {
	t.Helper()
	var c checkup
	dec := json.NewDecoder(strings.NewReader(r.Stdout))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		t.Fatalf("doctor --json: %v: code %d\n%s\n%s", err, r.Code, r.Stdout, r.Stderr)
	}
	var names []string
	for _, l := range c.Layers {
		names = append(names, l.Name)
		if !slices.Contains([]string{"ok", "weak", "missing", "untried"}, l.Status) || l.Got == "" {
			t.Errorf("layer %+v", l)
		}
	}
	if !slices.Equal(names, doctorLayers) {
		t.Errorf("layers %q", names)
	}
	if want := map[bool]int{true: 0, false: 1}[c.Starts]; r.Code != want {
		t.Errorf("code %d where starts is %v", r.Code, c.Starts)
	}
	if c.Starts == (len(c.names("missing")) > 0) {
		t.Errorf("starts is %v, missing are %q", c.Starts, c.names("missing"))
	}
	if left, _ := filepath.Glob(b.Home + "/.local/state/outcall/*"); len(left) > 0 {
		t.Errorf("doctor left %v", left)
	}
	return c
}

// notOneRoot skips where a user namespace with one id would have kernel uid 0
// for it: no session starts there but with --as-root.
func notOneRoot(t *testing.T) {
	t.Helper()
	if world.As() == "root" {
		t.Skip("real root in a user namespace of its own has no other id to give the command (WORLD_AS=user)")
	}
}

// mayBeWeak are layers that a good machine can have less of.
var mayBeWeak = []string{"tap device", "subordinate ids", "protocols"}

func mustBeWell(t *testing.T, c checkup, weak ...string) {
	t.Helper()
	for _, l := range c.Layers {
		if l.Status != "ok" && (l.Status != "weak" || !slices.Contains(append(weak, mayBeWeak...), l.Name)) {
			t.Errorf("%s is %s: %s", l.Name, l.Status, l.Got)
		}
	}
}

func TestDoctorWell(t *testing.T) {
	b := harness.New(t)
	mustBeWell(t, readCheckup(t, b, b.Outcall("doctor", "--json")))
	r := b.Outcall("doctor").Must(t, 0)
	mustContain(t, "text", r.Stdout, append([]string{"A session would start here.", "TCP, UDP, QUIC", "io_uring_setup", "ioctl(TIOCSTI)"}, doctorLayers...)...)
	mustLack(t, "text", r.Stdout, "missing", "untried")
	if r.Stderr != "" {
		t.Errorf("standard error %q", r.Stderr)
	}
}

func TestDoctorInsideSession(t *testing.T) {
	b := harness.New(t)
	// The outer session keeps the state directory, and is what the inner one
	// goes out by.
	r := b.Sandbox([]string{"-q"}, harness.Outcall, "doctor", "--json")
	os.RemoveAll(b.Home + "/.local/state/outcall") // of the outer session
	c := readCheckup(t, b, r)
	mustBeWell(t, c, "state directory")
	mustContain(t, "text", r.Stdout, "http://10.200.0.1:8080")
}

func TestDoctorInsideUserNamespace(t *testing.T) {
	notOneRoot(t)
	b := harness.New(t)
	mustBeWell(t, readCheckup(t, b, b.Start(b.Program("unshare", "-Urm", harness.Outcall, "doctor", "--json")).Wait()))
}

// A machine that has less than a session could use.
func TestDoctorWeak(t *testing.T) {
	b := harness.New(t)
	b.WithoutIPv6(t)
	b.SetResolvers(t)
	b.Setenv("HTTPS_PROXY=http://user:secret@proxy.test:3128", "HOME")
	r := b.Outcall("doctor", "--json")
	c := readCheckup(t, b, r)
	mustBeWell(t, c, "IPv6 route", "resolver", "state directory")
	for _, name := range []string{"IPv6 route", "resolver", "state directory"} {
		if !slices.Contains(c.names("weak"), name) {
			t.Errorf("%s is not weak: %s", name, r.Stdout)
		}
	}
	mustContain(t, "proxy", r.Stdout, "proxy.test:3128")
	mustLack(t, "proxy", r.Stdout, "secret")
}

// C10: every way in which a machine refuses a session, one layer each. ok are
// layers that must have been tried all the same.
func TestDoctorNamesTheLayer(t *testing.T) {
	const sysctl = "echo 0 > /proc/sys/user/%s; exec " + harness.Outcall + " doctor --json"
	outer := func(kind string) []string {
		return []string{harness.Probe, "outer", kind, harness.Outcall, "doctor", "--json"}
	}
	limited := func(name string) []string { return []string{"unshare", "-Ur", "sh", "-c", fmt.Sprintf(sysctl, name)} }
	before := []string{"kernel", "session directory", "state directory", "resolver", "IPv4 route"}
	inNS := append(slices.Clip(before), "user namespace", "capabilities", "network namespace", "mount and pid namespaces")
	above := slices.Clip(append(inNS, "bridge and routes"))
	for _, c := range []struct {
		layer string
		start []string
		mend  []string
		ok    []string
	}{
		{"user namespace", limited("max_user_namespaces"), []string{"user.max_user_namespaces"}, before},
		{"user namespace", outer("userns"), []string{"seccomp=unconfined"}, before},
		{"capabilities", outer("nocaps"), []string{"AppArmor", "apparmor=unconfined"}, append(slices.Clip(before), "user namespace")},
		{"capabilities", outer("nonet"), []string{"AppArmor", "apparmor=unconfined"}, append(slices.Clip(before), "user namespace")},
		{"network namespace", limited("max_net_namespaces"), []string{"max_net_namespaces"}, append(slices.Clip(before), "user namespace", "capabilities")},
		{"mount and pid namespaces", limited("max_mnt_namespaces"), []string{"user.max_mnt_namespaces"}, before},
		{"proc", []string{"unshare", "-Urm", "sh", "-c", "mount --bind /dev/null /proc/timer_list; exec " + harness.Outcall + " doctor --json"},
			[]string{"unmask=ALL", "systempaths=unconfined", "procMount"}, append(above, "view", "nftables", "round trip")},
		{"nftables", outer("nft"), []string{"seccomp=unconfined", "AF_NETLINK"}, append(above, "proc", "view", "host socket")},
	} {
		t.Run(c.layer, func(t *testing.T) {
			if c.start[0] == "unshare" {
				notOneRoot(t)
			}
			b := harness.New(t)
			mustMiss(t, b, b.Start(b.Program(c.start[0], c.start[1:]...)).Wait(), c.layer, c.mend, c.ok)
		})
	}
}

// mustMiss demands that a layer is named missing with its mend, and that what
// is ok was found so. Only what is refused with it may be missing as well.
func mustMiss(t *testing.T, b *harness.Bed, r harness.Result, layer string, mend, ok []string) checkup {
	t.Helper()
	c := readCheckup(t, b, r)
	missing := c.names("missing")
	if layer == "nftables" { // the log of dropped packets is the same family's
		missing = slices.DeleteFunc(missing, func(n string) bool { return n == "NFLOG" })
	}
	if !slices.Equal(missing, []string{layer}) {
		t.Errorf("missing: %q, want %s\n%+v", missing, layer, c.Layers)
	}
	mustContain(t, "mend", c.mend(layer), mend...)
	for _, name := range ok {
		if !slices.Contains(c.names("ok"), name) {
			t.Errorf("%s is not ok: %q", name, c.names("ok"))
		}
	}
	return c
}

// The mend of a system whose AppArmor restricts user namespaces is the profile
// for this very binary.
func TestDoctorAppArmorProfile(t *testing.T) {
	notOneRoot(t)
	b := harness.New(t)
	script := withAppArmor + `exec %s outer userns %s doctor --json`
	r := b.Start(b.Program("unshare", "-Urm", "sh", "-c", fmt.Sprintf(script, harness.Probe, harness.Outcall))).Wait()
	mustMiss(t, b, r, "user namespace", []string{`profile outcall "` + harness.Outcall + `" flags=(unconfined)`, "apparmor_parser -r"}, nil)
}

func TestDoctorNoResolver(t *testing.T) {
	b := harness.New(t)
	b.SetResolvers(t)
	r := b.Outcall("doctor", "--json")
	c := mustMiss(t, b, r, "resolver", []string{"/etc/resolv.conf", "--dns-upstream", "HTTPS_PROXY"}, []string{"nftables", "round trip", "session"})
	if c.Starts {
		t.Error("no resolver, and a session would start")
	}
}

// The session directory cannot be had: all else is tried in a private one.
func TestDoctorForeignDirectory(t *testing.T) {
	b := harness.New(t)
	dir := b.Home + "/open"
	if err := os.MkdirAll(dir+"/outcall", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir+"/outcall", 0o777); err != nil {
		t.Fatal(err)
	}
	b.Setenv("XDG_RUNTIME_DIR=" + dir)
	all := []string{"nftables", "round trip", "session"}
	mustMiss(t, b, b.Outcall("doctor", "--json"), "session directory", []string{dir + "/outcall", "XDG_RUNTIME_DIR"}, all)

	b.Setenv("XDG_RUNTIME_DIR")
	taken := fmt.Sprintf("/tmp/outcall-%d", os.Getuid())
	if err := os.Mkdir(taken, 0o700); err != nil {
		t.Fatal(err)
	}
	// /usr is the outer root's, who has no name in the world's user namespace.
	if err := unix.Mount("/usr", taken, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	r := b.Outcall("doctor", "--json")
	if err := unix.Unmount(taken, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(taken); err != nil {
		t.Fatal(err)
	}
	mustMiss(t, b, r, "session directory", []string{taken}, all)
}

// A directory where no session can start: the layers are tried in another one.
func TestDoctorElsewhere(t *testing.T) {
	b := harness.New(t)
	dir := b.Runtime + "/here"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := b.Command("doctor", "--json")
	cmd.Dir = dir
	mustMiss(t, b, b.Start(cmd).Wait(), "view", []string{"--workdir"}, []string{"user namespace", "nftables", "round trip"})
}

// Packet sockets are refused: a run takes a tap device, if it is there.
func TestDoctorPacketSocketsRefused(t *testing.T) {
	b := harness.New(t)
	r := b.Start(b.Program(harness.Probe, "outer", "packet", harness.Outcall, "doctor", "--json")).Wait()
	c := readCheckup(t, b, r)
	mustContain(t, "mend", c.mend("packet socket"), "RestrictAddressFamilies", "AF_PACKET", "--link tap")
	f, err := os.OpenFile(tunDevice, os.O_RDWR, 0)
	if err == nil && world.As() != "root" {
		f.Close()
		mustBeWell(t, c, "packet socket")
		return
	}
	if got := c.names("missing"); !slices.Equal(got, []string{"packet socket", "tap device"}) {
		t.Errorf("missing: %q", got)
	}
	mustContain(t, "mend", c.mend("tap device"), tunDevice)
}

// The same with a device for everybody, where real root can make one: the link
// is weak, and a session starts. It is the gatekeeper that opens the device,
// with the rights of whom the command runs as, not doctor's caller.
func TestDoctorTapDevice(t *testing.T) {
	if world.As() != "root" {
		t.Skip("a tun device of the test's own needs real root (make users)")
	}
	ownTun(t, 0o666)
	b := harness.New(t)
	c := readCheckup(t, b, b.Outcall("doctor", "--json"))
	if !slices.Contains(c.names("ok"), "tap device") {
		t.Errorf("%+v", c)
	}
	r := b.Start(b.Program(harness.Probe, "outer", "packet", harness.Outcall, "doctor", "--json")).Wait()
	mustBeWell(t, readCheckup(t, b, r), "packet socket")
	if err := os.Chmod(tunDevice, 0o600); err != nil {
		t.Fatal(err)
	}
	c = readCheckup(t, b, b.Outcall("doctor", "--json"))
	if !slices.Contains(c.names("weak"), "tap device") {
		t.Errorf("a device for root alone: %+v", c)
	}
}
