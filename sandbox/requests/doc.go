// Package requests keeps the rule files that agents propose, and what the
// operator made of them: one file for each project, below outcall's own state,
// which a command can neither see nor write.
//
// A request waits until the operator answers it, also beyond the end of the
// session that it came from: the next session of the same working directory
// shows it. What is approved is loaded by each later session there, until its
// time is up or it is taken back.
//
//	pending ─ Approve → approved ─ its time is up → expired
//	   └──── Reject → rejected ←─ Revoke ─┘
//
// Several sessions of a project share the file. Each change is made under a
// lock, to what stands there at that moment, and put in place by a rename: a
// reader sees the old state or the new one, whenever the writer dies. Sessions
// learn of each other's changes by Watch.
//
// A file that cannot be understood is an error of each call, never an approval.
// The package knows nothing of rules; a text is as good as its hash.
package requests
