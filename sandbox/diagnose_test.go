package sandbox

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"outcall/sandbox/gate"
	"outcall/sandbox/probe"
)

func TestTooOld(t *testing.T) {
	for release, want := range map[string]bool{
		"6.18.44-custom": false, "5.8.0": false, "5.7.19": true, "4.18.0-513.el8": true, "10.0": false, "": false, "unknown": false,
	} {
		if got := tooOld(release); got != want {
			t.Errorf("%q: %v", release, got)
		}
	}
}

// Every stage that a start can fail at belongs to a layer of the report.
func TestLayerOf(t *testing.T) {
	for _, x := range []struct {
		err  error
		want string
	}{
		{&gate.StageError{Stage: gate.StageUserNS, Errno: unix.EPERM}, probe.UserNS},
		{&gate.StageError{Stage: gate.StageUserNS, Detail: gate.NoCapabilities, Errno: unix.EPERM}, probe.Caps},
		{&gate.StageError{Stage: gate.StageNetNS, Errno: unix.EPERM}, probe.Caps},
		{&gate.StageError{Stage: gate.StageNetNS, Errno: unix.ENOSPC}, probe.NetNS},
		{&gate.StageError{Stage: gate.StageRoute, Errno: unix.EPERM}, probe.Links},
		{&gate.StageError{Stage: "proc", Errno: unix.EPERM}, probe.Proc},
		{&gate.StageError{Stage: "tmp", Errno: unix.EPERM}, probe.View},
		{&setupError{"command", &gate.StageError{Stage: gate.StageSeccomp}}, probe.Seccomp},
		{fmt.Errorf("something else: %w", unix.EPERM), probe.Session},
		{errors.New("no stage"), probe.Session},
	} {
		if got := layerOf(x.err); got != x.want {
			t.Errorf("%v: %s, want %s", x.err, got, x.want)
		}
	}
	r := probe.New()
	for stage, layer := range stageLayers {
		if r.Layer(layer).Status != probe.Untried {
			t.Errorf("%s: %s", stage, layer)
		}
	}
}
