package policy

import (
	"slices"
	"strings"
	"testing"
)

// Whatever is too long is cut for people and hidden from rules: half a path
// could match what the whole one does not.
func TestTooLongIsCutAndHidden(t *testing.T) {
	long := "/opt/tool/" + strings.Repeat("x", MaxExe)
	state := func(p *Process) (exe, args State) {
		f := NewFacts(LayerFlow, Who{})
		f.SetProcess(p)
		if f.State(ProcessName) != f.State(ProcessExe) {
			t.Errorf("name is %v, exe %v", f.State(ProcessName), f.State(ProcessExe))
		}
		return f.State(ProcessExe), f.State(ProcessArgs)
	}
	p := (&Process{PID: 7, Exe: long, Args: []string{"a"}}).Bounded()
	if exe, args := state(p); exe != Hidden || args != Known || len(p.Exe) > MaxExe || !strings.HasPrefix(long, strings.TrimSuffix(p.Exe, CutMark)) || p.PID != 7 {
		t.Errorf("%+v: exe %v, args %v", p, exe, args)
	}
	for _, many := range [][]string{{"a", strings.Repeat("é", MaxArgs)}, slices.Repeat([]string{""}, MaxArgs+1), {strings.Repeat("x", MaxArgs-4), "yyyy"}} {
		p = (&Process{Exe: long[:MaxExe], Args: many}).Bounded()
		size := 0
		for _, a := range p.Args {
			size += len(a) + 1
		}
		if exe, args := state(p); exe != Known || args != Hidden || size > MaxArgs || p.Exe != long[:MaxExe] {
			t.Errorf("exe %v, args %v of %d bytes", exe, args, size)
		}
	}
	p = (&Process{Exe: "/bin/sh", Args: []string{strings.Repeat("x", MaxArgs-1)}}).Bounded()
	if exe, args := state(p); exe != Known || args != Known {
		t.Errorf("what just fits: exe %v, args %v", exe, args)
	}
}
