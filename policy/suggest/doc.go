// Package suggest turns the audit log of a run into the smallest rules that
// allow what was used: one rule for each host and kind of use, none of which
// can be left out, the narrowest first.
//
// What enforce denied stays denied. What observe let pass although enforce
// would deny it is listed apart and becomes rules only where the caller asks
// for it. What an explicit block rule denies never does.
//
// Before anything is returned the whole log is replayed against the rules
// (package replay); a rule that would let through what was denied is taken
// back, and what then stays denied is told.
//
// Names in a log were chosen by the command that made it. Only what is a host
// name, an address, a port or a record type gets into a rule.
package suggest
