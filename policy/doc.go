// Package policy decides. It compiles rule files into an immutable Snapshot
// and answers, for the facts of one step of a flow, one of four words. It
// knows no socket, no packet and no namespace, keeps no clock, and reads
// nothing but the files it is given.
//
// The path of a verdict: rule files (Source) → Load → Snapshot; a step of a
// flow (Layer) → Facts → Step → Outcome. The data path and explain drive the
// same functions in the same order, so that what explain says is what the
// wire does.
//
// A field of the facts is known, later, hidden or absent, and a condition is
// three-valued over them. An allow needs a definite true; a block is never
// evaded by making a field unreadable.
package policy
