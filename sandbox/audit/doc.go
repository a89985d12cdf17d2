// Package audit keeps a session's record: one JSON line for each verdict and
// each end of a flow, chained by hashes. Writer writes it, Verify checks it,
// Read and Text show it.
//
//	Record ──> bounds ──> equal denial? ──yes──> counted, one line a second
//	                          │no
//	                      budget left? ──no───> counted, one overflow line a second and layer
//	                          │yes
//	                      line, chained ──> file (one goroutine) and followers
//
// A line's seq is the number of events up to and with it: a line with a count
// stands for that many. So the sum of all counts (1 where there is none) is
// the last seq, and Verify holds every line to it: what a flood leaves out is
// left out by number, never silently.
//
// A line's prev is the SHA-256 of the line before with its newline, in hex,
// as `head -n 1 audit.jsonl | sha256sum` has it; the first line has zeros. It
// proves order and wholeness to someone who kept the head's hash; the file's
// owner can rewrite all of it.
//
// What is written stays: nothing is dropped to make room. Denials, which an
// agent can make without end, may fill half of a session's budget and are
// only counted from there on; allows may fill all of it but a reserve. An
// older session's file is rotated to .1, .2, and so on.
package audit
