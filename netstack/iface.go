package netstack

import (
	"context"
	"net/netip"

	"outcall/policy"
)

// A Tuple is a flow as the agent sees it: Src is inside, Dst is what it asked
// for.
type Tuple struct {
	Proto    policy.Proto
	Src, Dst netip.AddrPort
}

// An Attributor finds the process behind a flow. It answers within its own
// bound (20 ms), nil meaning hidden.
type Attributor interface {
	Attribute(ctx context.Context, t Tuple) *policy.Process
}

// An Auditor takes audit events. Record returns after the line is with the
// writer, so that a verdict's line stands before its first effect; it never
// blocks on a slow disk beyond the writer's bounded queue.
type Auditor interface {
	Record(e policy.Event)
	// Err tells why events are not being written now; nil is none. What Record
	// has taken since is written when it can be.
	Err() error
}

// A KernelMaps holds the derived elements of the nftables maps. Both calls
// return after the kernel has answered.
type KernelMaps interface {
	// AddPins makes the kernel pass these cells of single addresses.
	AddPins(ctx context.Context, cells []policy.Cell) error
	// DelPins removes them again; absent ones are no error.
	DelPins(ctx context.Context, cells []policy.Cell) error
}
