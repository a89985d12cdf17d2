// Package hostapi is the operator's door to a running session: HTTP/1.1 over
// a Unix socket (host.sock, mode 0600), its server and its client.
//
// Both ends look at the other before a byte of either is used: the peer must
// have the same uid and the same user namespace (see CheckPeer). A command in
// the sandbox runs as the same uid, but in a user namespace below ours, so
// even with the socket in its hands it is answered 403; and a client that
// meets a socket served from inside a sandbox sends nothing.
//
// Answers come in one envelope:
//
//	{"ok":true,"data":…}
//	{"ok":false,"error":"…"}     with a 4xx or 5xx status
//
// except for the streams: events (JSON lines), capture (a pcap file) and exec
// (frames, see frame.go). The session behind the API is a Backend; the package knows
// neither namespaces nor rules.
package hostapi
