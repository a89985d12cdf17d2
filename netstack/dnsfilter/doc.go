// Package dnsfilter answers the agent's DNS questions, to whichever address
// they were sent. A question is judged by name before anything leaves; its
// answer is cleaned, and its addresses are pinned to the name, in the kernel
// too, before the answer leaves.
//
// The way of one question:
//
//	ServeUDP, ServeTCP          strict parse: one question, class IN, opcode QUERY
//	  └─ answer                 who asks (attribution); retransmissions joined
//	       └─ judge             policy.Step at the dns layer; the verdict line is written
//	            ├─ deny         NXDOMAIN, or NODATA for a denied type, SOA, EDE 15
//	            └─ source       localhost, pins (PTR), host entries, cache, upstream
//	                 └─ clean   CNAME chain, vetoes, addresses, HTTPS records
//	                      └─ pin.Table.Add    kernel first; judged again if a reload came between
//	                           └─ reply
//
// Nothing of the client's message reaches an upstream resolver: the question
// there has our own id, source port, letter case and EDNS, and of the reply
// only records on the CNAME chain from that question are used.
//
// Resolve does the same for the explicit proxy and for a flow whose pin has
// expired; Test does it for the operator, without pinning.
package dnsfilter
