// Package pcap writes and reads capture files of Ethernet frames, in the
// format that tcpdump calls savefile (version 2.4, nanoseconds, byte order of
// the writer), and describes a frame in one line as tcpdump does.
//
// It does not capture; that is package sandbox's business. Frames come from
// inside a sandbox: every length in them is checked against the bytes that
// are there, and what is printed of them is escaped.
package pcap
