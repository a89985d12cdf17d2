package link

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/nested"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// fixedPeer is a link with one neighbour whose address is given. Above it the
// stack has nothing to resolve, so it keeps no neighbour cache that a packet
// could fill, and never asks.
type fixedPeer struct {
	nested.Endpoint
	child stack.LinkEndpoint
	peer  tcpip.LinkAddress
}

func newFixedPeer(child stack.LinkEndpoint, peer []byte) *fixedPeer {
	e := &fixedPeer{child: child, peer: linkAddr(peer)}
	e.Endpoint.Init(child, e)
	return e
}

// Capabilities implements stack.LinkEndpoint.
func (e *fixedPeer) Capabilities() stack.LinkEndpointCapabilities {
	return e.Endpoint.Capabilities() &^ stack.CapabilityResolutionRequired
}

// AddHeader implements stack.LinkEndpoint.
func (e *fixedPeer) AddHeader(pkt *stack.PacketBuffer) {
	e.route(pkt)
	e.Endpoint.AddHeader(pkt)
}

// WritePackets implements stack.LinkEndpoint. The tap endpoint writes its
// header here and not in AddHeader.
func (e *fixedPeer) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for _, pkt := range pkts.AsSlice() {
		e.route(pkt)
	}
	return e.Endpoint.WritePackets(pkts)
}

func (e *fixedPeer) route(pkt *stack.PacketBuffer) {
	pkt.EgressRoute.RemoteLinkAddress = e.peer
	pkt.EgressRoute.LocalLinkAddress = linkAddr(MAC[:])
}

// DeliverNetworkPacket implements stack.NetworkDispatcher: IPv4 and IPv6 pass,
// less neighbour discovery; ARP and all else is dropped.
func (e *fixedPeer) DeliverNetworkPacket(proto tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	switch proto {
	case header.IPv4ProtocolNumber:
	case header.IPv6ProtocolNumber:
		if isNeighbourDiscovery(pkt) {
			return
		}
	default:
		return
	}
	e.Endpoint.DeliverNetworkPacket(proto, pkt)
}

// isNeighbourDiscovery reports router and neighbour messages and redirects
// (RFC 4861, types 133-137), which RFC 4861 6.1 and 7.1 let come without
// extension headers only.
func isNeighbourDiscovery(pkt *stack.PacketBuffer) bool {
	h, ok := pkt.Data().PullUp(header.IPv6MinimumSize + 1)
	if !ok || header.IPv6(h).NextHeader() != uint8(header.ICMPv6ProtocolNumber) {
		return false
	}
	t := h[header.IPv6MinimumSize]
	return t >= 133 && t <= 137
}
