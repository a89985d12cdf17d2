package waits

import (
	"testing"
	"time"
)

// What is built without the tag has the waits of the contract.
func TestReleasedWaits(t *testing.T) {
	if HTTP != 300*time.Second || UDP != 300*time.Second || KeepIdle+KeepCount*KeepInterval != 3*time.Minute {
		t.Errorf("HTTP %v, UDP %v, a dead peer after %v", HTTP, UDP, KeepIdle+KeepCount*KeepInterval)
	}
	if PinLife != 300*time.Second || PinGrace != time.Minute {
		t.Errorf("a pin lives %v and %v", PinLife, PinGrace)
	}
}
