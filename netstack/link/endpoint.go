package link

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// MTU implements stack.LinkEndpoint.
func (e *frames) MTU() uint32 { return e.mtu }

// SetMTU implements stack.LinkEndpoint; the interface's is given.
func (*frames) SetMTU(uint32) {}

// Capabilities implements stack.LinkEndpoint. With vnet headers the kernel hands
// over checksums still to do: to verify them would drop every segment that was
// made on this machine.
func (*frames) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}

// MaxHeaderLength implements stack.LinkEndpoint: what stands before a packet is
// no part of it.
func (*frames) MaxHeaderLength() uint16 { return 0 }

// LinkAddress implements stack.LinkEndpoint.
func (*frames) LinkAddress() tcpip.LinkAddress { return linkAddr(MAC[:]) }

// SetLinkAddress implements stack.LinkEndpoint; the address is given.
func (*frames) SetLinkAddress(tcpip.LinkAddress) {}

// IsAttached implements stack.LinkEndpoint.
func (e *frames) IsAttached() bool { return e.dispatcher() != nil }

// Wait implements stack.LinkEndpoint.
func (e *frames) Wait() { e.running.Wait() }

// ARPHardwareType implements stack.LinkEndpoint.
func (*frames) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// AddHeader implements stack.LinkEndpoint.
func (*frames) AddHeader(*stack.PacketBuffer) {}

// ParseHeader implements stack.LinkEndpoint.
func (*frames) ParseHeader(*stack.PacketBuffer) bool { return true }

// Close implements stack.LinkEndpoint; the sockets are the caller's.
func (*frames) Close() {}

// SetOnCloseAction implements stack.LinkEndpoint; Close does nothing.
func (*frames) SetOnCloseAction(func()) {}

// GSOMaxSize implements stack.GSOEndpoint.
func (*frames) GSOMaxSize() uint32 { return gsoMax }

// SupportedGSO implements stack.GSOEndpoint.
func (*frames) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }
