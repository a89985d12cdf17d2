// Package nft keeps table inet outcall in the gateway network namespace: the
// kernel's share of the policy. It does not decide anything; its maps are
// derived by package policy, pass a superset of what the flow layer allows,
// and everything else is counted, logged to NFLOG and dropped without an
// answer (the supervisor answers, after it has looked for the process).
//
// A packet's way through the table:
//
//	prerouting (policy drop)
//	  not from outcall0                        accept
//	  to the gateway's link address            accept
//	  IGMP, ICMPv6                             accept; routed nowhere
//	  else                                     group
//	forward (policy drop)
//	  uplink0 → outcall0                       accept   (the netstack's packets)
//	  not from outcall0                        stray, drop
//	  not to uplink0                           refuse
//	  source is not the agent's                spoof
//	  a fragment                               refuse
//	  port 53, udp and tcp, to any address     dns, accept
//	  the explicit proxy's port at the gateway proxy, accept
//	  ICMP and ICMPv6                          echo
//	  addr . proto . port  in pins4, pins6     r_<rule>: counter, accept
//	  addr . proto . ports in ranges4, ranges6 r_<rule>
//	  addr . proto         in hosts4, hosts6   r_<rule>
//	  net  . proto . ports in nets4, nets6     r_<rule>
//	  observe: tcp, udp to unrestricted        observed, accept
//	  else                                     refuse
//	echo
//	  request to the gateway                   echo, accept
//	  request to an element of the maps        r_<rule>
//	  observe: request to unrestricted         observed, accept
//	  else                                     refuse
//	refuse, spoof, group                       counter, NFLOG, drop
//	input, output (policy drop)
//
// The table is stateless: no conntrack, no address translation, no timeouts.
// Every packet of a flow needs its element, so removing an element cuts the
// flow as well.
//
// An element of ICMP has the echo request's type and code in the place of the
// port, since a chain reads both from the same bytes of the packet (RFC 792,
// RFC 4443): only an echo request can ever match one.
//
// pins4 and pins6 are hash maps of single ports at single addresses. ranges4
// and ranges6 are interval maps of port ranges at single addresses, hosts4 and
// hosts6 hash maps of single addresses with all their ports, nets4 and nets6
// interval maps of networks. They are apart because the kernel takes no
// element into an interval map that overlaps another one, and because each
// change of an interval map costs it a copy of the whole.
//
// Everything is sent over one NETLINK_NETFILTER socket that was opened inside
// the namespace and passed out; the sender needs CAP_NET_ADMIN in the user
// namespace that owns it, which the owner of a child user namespace has.
package nft
