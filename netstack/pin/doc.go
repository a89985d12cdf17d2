// Package pin binds names to the addresses that DNS answers gave them, for
// one session. A flow to an address is judged under the names that are pinned
// there; an address without a live pin has no name.
//
// The life of a pin:
//
//	dnsfilter judged an answer
//	   └─ Table.Add: derive cells → kernel acknowledges → visible → the answer leaves
//	        ├─ asked again: the expiry moves
//	        ├─ Hold: a flow uses it, so it does not expire
//	        ├─ Reload: judged again by the new rules, its cells derived anew
//	        └─ expiry: no candidate any more → out of the kernel → remembered as expired
//
// Pins belong to names, not to rules; what a rule makes of a name is the
// Cells, the kernel's share, which are derived from it. The kernel holds one
// disjoint set of cells for an address, however many names share it, and a
// cell leaves when the last name that needs it leaves.
//
// A full table refuses: a live pin is never evicted for a new one, since that
// would cut a flow that the policy allows. The same holds for the direct_ip
// grants of a rule: a pin beyond their bound is made without them.
package pin
