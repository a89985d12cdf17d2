// Package link carries the sandbox's packets between the kernel and the
// userspace netstack. A Link hands gVisor one link endpoint; two
// implementations exist, a packet socket with vnet headers (the default) and
// a tap device, behind one interface and one set of tests.
package link

import (
	"context"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// MAC is the netstack's Ethernet address. It belongs to no interface, so the
// kernel itself never accepts a frame sent to it.
var MAC = [6]byte{0x02, 0x6f, 0x75, 0x74, 0x63, 0x01}

// A Link is one attachment of the netstack to the gateway network namespace.
type Link interface {
	// Endpoint returns the link endpoint for stack.CreateNIC.
	Endpoint() stack.LinkEndpoint
	// Run serves the link until ctx ends or the link fails.
	Run(ctx context.Context) error
}
