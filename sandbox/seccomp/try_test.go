package seccomp

import (
	"os"
	"os/exec"
	"runtime"
	"testing"
)

// Try tells the filter's own answers where it is loaded, and where it is not
// tells that it is not. The thread that loads it is given up with the process.
func TestTry(t *testing.T) {
	if os.Getenv("TRY_FILTERED") != "" {
		runtime.LockOSThread()
		if err := Apply(); err != nil {
			t.Fatal(err)
		}
		for _, a := range Try() {
			if !a.Refused() {
				t.Errorf("%s: %v, want %v", a.Call, a.Got, a.Want)
			}
		}
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestTry$", "-test.v")
	cmd.Env = append(os.Environ(), "TRY_FILTERED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("filtered: %v\n%s", err, out)
	}
	passed := map[string]bool{}
	for _, a := range Try() {
		passed[a.Call] = !a.Refused()
	}
	// What the kernel itself refuses with the same word does not tell.
	for _, call := range []string{"io_uring_setup", "add_key", "keyctl", "ioctl(TIOCSTI)", "ioctl(TIOCLINUX)"} {
		if !passed[call] {
			t.Errorf("%s is refused where there is no filter", call)
		}
	}
}
