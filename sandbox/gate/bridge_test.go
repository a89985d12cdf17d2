package gate

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Egress can be cut by the supervisor alone: when the agent has used up what
// its uid has of processes and descriptors, or has stopped what starts.
func TestBridgeDownNeedsNoGatekeeper(t *testing.T) {
	c := inside(t)
	pid := c.Info().KeeperPID
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Kill(pid, unix.SIGCONT) }()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for range 2 { // a second time is no error
		if err := c.BridgeDown(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if index, up, err := c.BridgeStatus(ctx); index != 0 || up || err != nil {
		t.Errorf("down: %d, %t, %v", index, up, err)
	}
}

func TestBridgeDownIsRefused(t *testing.T) {
	c := inside(t)
	// lo is a link that no kernel removes.
	c.network.Bridge = "lo"
	if err := c.BridgeDown(deadline(t)); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("%v", err)
	}
}

func TestBridgeUpFails(t *testing.T) {
	needNamespaces(t)
	o := options(t)
	o.FailStage = StageBridge + " up"
	c := session(t, o)
	if err := c.BridgeDown(deadline(t)); err != nil {
		t.Fatal(err)
	}
	err := c.BridgeUp(deadline(t))
	var se *StageError
	if !errors.As(err, &se) || se.Errno != unix.EPERM {
		t.Errorf("%v", err)
	}
	if _, up, _ := c.BridgeStatus(deadline(t)); up {
		t.Error("the bridge is up")
	}
}
