package sandbox

import (
	"runtime"
	"runtime/metrics"
	"testing"
	"time"
)

func gcPercent() int {
	now := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(now)
	return int(now[0].Value.Uint64())
}

// The collector is put off for the start alone: neither its first run, nor the
// end, nor both leave it so.
func TestCollectorIsOnlyPutOff(t *testing.T) {
	t.Setenv("GOGC", "")
	before := gcPercent()
	stop := deferGC()
	if now := gcPercent(); now != startGC {
		t.Fatalf("during a start: %d, want %d", now, startGC)
	}
	stop()
	if now := gcPercent(); now != before {
		t.Errorf("after the end: %d, want %d", now, before)
	}
	stop = deferGC()
	runtime.GC()
	for until := time.Now().Add(settled / 2); gcPercent() != before; runtime.Gosched() {
		if time.Now().After(until) {
			t.Fatalf("after a collection: %d, want %d", gcPercent(), before)
		}
	}
	stop()
	if now := gcPercent(); now != before {
		t.Errorf("after both: %d, want %d", now, before)
	}
}
