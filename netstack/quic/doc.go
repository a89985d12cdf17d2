// Package quic reads what a QUIC client says before its connection is
// encrypted to the server alone: the ClientHello in its Initial packets, of
// versions 1 (RFC 9000, 9001) and 2 (RFC 9369). Initial packets are protected
// with keys that anybody can derive from their own headers, so nothing here is
// secret, and nothing here is a QUIC implementation: it never sends, keeps no
// time and starts no goroutine.
//
// One Reader follows one UDP flow. It is asked about every datagram of the
// client, for the life of the flow:
//
//	datagram ─ form bit 0 ─────────────── NotQUIC, or Pass once a hello is known
//	   │       version 0 ──────────────── Malformed: only servers negotiate
//	   │       version unknown ────────── UnknownVersion (version.go)
//	   │
//	   └ each coalesced packet (header.go)
//	        ├ 0-RTT, Handshake ────────── by header only
//	        ├ Retry ───────────────────── Malformed: only servers retry
//	        └ Initial ─ keys of its connection (keys.go): header, AEAD
//	             └ frames (frames.go) ─ CRYPTO ─ stream (stream.go)
//	                  └ whole message ─ package hello ─ the flow's one answer:
//	                       │               same SNI, ALPN, ECH as ever before
//	                       └ NeedMore · Complete · Pass · Malformed
//
// # Which keys
//
// A connection is known by the Destination Connection ID of its client's first
// Initial: the keys of both versions come from it, also after the server chose
// another ID (only the header changes) or the other version (RFC 9368, the
// stream goes on). After a Retry, and after a Version Negotiation, the client's
// next Initial simply is the first one of a new connection. The reader sees the
// client's side only, so it tries each key that any server could: the one from
// the packet's own ID, and those of all connections of the flow. AES-GCM does
// not bind a packet to one key; one that opens with two is refused.
//
// # Why what is read is what the server reads
//
// A server may lose, drop or forget any datagram, and servers are lenient in
// different things. So the reader takes the union: every Initial is opened,
// whatever its size and fixed bit (RFC 9287), in whichever order. Octets of the
// stream that come twice must be equal, the packet number must have one
// reading, every ClientHello of the flow must ask for the same, and nothing of
// a message leaves before the message is whole. Under a set of streams that is
// unique in this way, each subset gives the same names. What cannot be read
// closes the flow. Two flows that share a connection ID are kept apart by Seen.
//
// # Memory
//
// A Reader keeps at most MaxConns connections and MaxBuffered octets of their
// streams; the caller holds at most MaxHeld datagrams of MaxHeldOctets in all.
// Beyond each the answer is Malformed.
//
// A Reader is not safe for concurrent use; a Seen is.
package quic
