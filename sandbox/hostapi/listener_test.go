package hostapi

import (
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// K9: an accept that fails does not end the server; its end does.
func TestAcceptGoesOnAfterAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ul, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l := newListener(ul)
	if err := ul.SetDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	got := make(chan error)
	go func() {
		for {
			c, err := l.Accept()
			got <- err
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	select {
	case err := <-got:
		t.Fatalf("Accept gave up: %v", err)
	case <-time.After(3 * acceptPause):
	}
	if err := ul.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := <-got; err != nil {
		t.Fatalf("the next client: %v", err)
	}
	l.Close()
	if err := <-got; !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if len(l.slots) != 0 {
		t.Errorf("%d slots are still held", len(l.slots))
	}
}
