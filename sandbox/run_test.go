package sandbox

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
)

// A signal ends a start also when its last steps do not look at the context:
// it has been taken from the channel, so the session would never hear of it.
func TestSignalAtTheEndOfAStart(t *testing.T) {
	sigs := make(chan os.Signal, 1)
	err := untilSignal(t.Context(), sigs, func(ctx context.Context) error {
		sigs <- syscall.SIGTERM
		<-ctx.Done()
		return nil
	})
	if err == nil || err.Error() != "interrupted by terminated" {
		t.Errorf("the start: %v", err)
	}
}

// One that arrives behind the start is the session's, and what fails by itself
// is told as it is.
func TestSignalAfterAStart(t *testing.T) {
	sigs := make(chan os.Signal, 1)
	if err := untilSignal(t.Context(), sigs, func(context.Context) error { return nil }); err != nil {
		t.Errorf("the start: %v", err)
	}
	sigs <- syscall.SIGTERM
	if len(sigs) != 1 {
		t.Error("the signal was taken")
	}
	failed := errors.New("no table")
	if err := untilSignal(t.Context(), make(chan os.Signal), func(context.Context) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("a start that failed: %v", err)
	}
}
