package probe

import (
	"bytes"
	"context"
	"os"
	"slices"
	"strings"
	"testing"
)

func names(r *Report, s Status) (out []string) {
	for _, l := range r.Layers {
		if l.Status == s {
			out = append(out, l.Name)
		}
	}
	return out
}

// What a layer needs is proven by any answer about it, and nothing else is.
func TestARefusalProvesWhatItNeeds(t *testing.T) {
	r := New()
	r.Refused(Packet, Missing, "packet socket: operation not permitted", "mend")
	r.Done()
	if got, want := names(r, OK), []string{UserNS, Caps, NetNS, Namespaces}; !slices.Equal(got, want) {
		t.Errorf("proven: %q, want %q", got, want)
	}
	if got := names(r, Missing); !slices.Equal(got, []string{Packet}) {
		t.Errorf("missing: %q", got)
	}
	if r.Starts {
		t.Error("a session would start without a link")
	}
	for _, l := range r.Layers {
		if l.Got == "" {
			t.Errorf("%s got nothing", l.Name)
		}
		if l.Status == Untried && !strings.Contains(l.Got, Packet) {
			t.Errorf("%s does not say what it waits for: %q", l.Name, l.Got)
		}
	}
}

// A trial that goes around a layer does not mend it.
func TestWhatIsMissingStaysMissing(t *testing.T) {
	r := New()
	r.Refused(Proc, Missing, "masked", "unmask")
	r.Stood(RoundTrip)
	r.Set(Proc, OK, "a fresh one", "")
	if l := r.Layer(Proc); l.Status != Missing || l.Mend != "unmask" {
		t.Errorf("%+v", *l)
	}
	if r.Layer(View).Status != OK {
		t.Error("the round trip does not prove the view")
	}
}

// Starts takes all layers: weak ones do, and one that nobody tried does not.
func TestStarts(t *testing.T) {
	r := New()
	for _, l := range layers {
		r.Set(l.name, OK, "got", "")
	}
	r.Done()
	if !r.Starts {
		t.Error("all is ok, and no session would start")
	}
	r.Set(IPv6, Weak, "no route", "")
	r.Done()
	if !r.Starts {
		t.Error("without IPv6 no session would start")
	}
	r.Set(RoundTrip, Untried, "", "")
	r.Done()
	if r.Starts {
		t.Error("nobody tried the round trip, and a session would start")
	}
}

// Every need is a layer that comes before.
func TestNeedsComeBefore(t *testing.T) {
	seen := map[string]bool{}
	for _, l := range layers {
		for _, n := range l.needs {
			if !seen[n] {
				t.Errorf("%s needs %s, which does not come before it", l.name, n)
			}
		}
		if seen[l.name] {
			t.Errorf("%s is there twice", l.name)
		}
		seen[l.name] = true
	}
}

func TestLockedBelow(t *testing.T) {
	const (
		root   = "21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
		proc   = "22 21 0:5 / /proc rw,nosuid - proc proc rw\n"
		locked = "23 22 0:5 /sys /proc/sys ro,nosuid - proc proc rw\n"
		open   = "24 22 0:5 /sys /proc/sys rw,nosuid - proc proc rw\n"
		mask   = "25 22 0:6 /null /proc/timer_list rw shared:7 - devtmpfs dev rw\n"
		beside = "26 21 0:7 / /process rw - tmpfs tmpfs rw\n"
	)
	for _, x := range []struct {
		table, want string
		ok          bool
	}{
		{root + proc + beside, "", true},
		{root + proc + locked, "/proc/sys", true},
		{root + proc + open, "", false},
		{root + proc + mask, "", false},
		{"a line\n" + proc, "", true},
	} {
		got, err := lockedBelow(strings.NewReader(x.table), "/proc")
		if strings.Join(got, ",") != x.want && x.ok || (err == nil) != x.ok {
			t.Errorf("%q: %q, %v", x.table, got, err)
		}
	}
}

// Outside of a sandbox Inside says so: nothing there is filtered or covered.
func TestInsideFindsThatItIsOutside(t *testing.T) {
	if s, err := status(); err != nil {
		t.Fatal(err)
	} else if s["Seccomp"] == "2" {
		t.Fatal("these tests run under a seccomp filter: run them where there is none")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // the round trip is not made
	var b bytes.Buffer
	if err := Inside(ctx, &b); err != nil {
		t.Fatal(err)
	}
	found, err := ReadFindings(&b)
	if err != nil || len(found) != 6 {
		t.Fatalf("%v: %+v", err, found)
	}
	for _, f := range found {
		// An ordinary machine's own /proc is as it must be.
		if f.Layer != Proc && f.Err == "" {
			t.Errorf("%s is well outside: %s", f.Layer, f.Got)
		}
	}
	if left, _ := os.ReadDir("/run/outcall/bin"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestReadFindings(t *testing.T) {
	found, err := ReadFindings(strings.NewReader(`{"layer":"proc","got":"x"}` + "\npanic: no"))
	if err == nil || len(found) != 1 || found[0].Layer != Proc {
		t.Errorf("%+v, %v", found, err)
	}
	long := `{"layer":"proc","got":"` + strings.Repeat("x", maxFindings) + `"}`
	if found, err := ReadFindings(strings.NewReader(long)); err == nil {
		t.Errorf("%d findings of more than %d bytes", len(found), maxFindings)
	}
}
