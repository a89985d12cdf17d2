// Package layers stands in for gopacket's; see the package above it.
package layers

// LayerTypeEthernet is the one layer that is named.
const LayerTypeEthernet = 0
