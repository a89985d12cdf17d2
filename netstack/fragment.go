package netstack

import (
	"crypto/rand"
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const protoFragment = 44

// fragments cuts a packet of ours that is longer than the link's MTU, as a
// router may for IPv4 and a source for IPv6: the outside's kernel has put the
// datagram together, and the agent's does so again. A short one stays as it is.
func fragments(b []byte, mtu int) [][]byte {
	if len(b) <= mtu {
		return [][]byte{b}
	}
	var id [4]byte
	_, _ = rand.Read(id[:]) // never fails, see newID
	if b[0]>>4 == 6 {
		return fragments6(b, mtu, id)
	}
	head, body := b[:header.IPv4MinimumSize], b[header.IPv4MinimumSize:]
	step := (mtu - len(head)) &^ 7
	var out [][]byte
	for at := 0; at < len(body); at += step {
		part := body[at:min(at+step, len(body))]
		p := append(append(make([]byte, 0, len(head)+len(part)), head...), part...)
		more := uint16(0)
		if at+len(part) < len(body) {
			more = 0x2000
		}
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		copy(p[4:6], id[:])
		binary.BigEndian.PutUint16(p[6:], uint16(at/8)|more)
		h := header.IPv4(p)
		h.SetChecksum(0)
		h.SetChecksum(^h.CalculateChecksum())
		out = append(out, p)
	}
	return out
}

func fragments6(b []byte, mtu int, id [4]byte) [][]byte {
	const extension = 8
	head, body := b[:header.IPv6MinimumSize], b[header.IPv6MinimumSize:]
	step := (mtu - len(head) - extension) &^ 7
	var out [][]byte
	for at := 0; at < len(body); at += step {
		part := body[at:min(at+step, len(body))]
		p := append(make([]byte, 0, len(head)+extension+len(part)), head...)
		more := uint16(0)
		if at+len(part) < len(body) {
			more = 1
		}
		p = append(p, head[6], 0)
		p = binary.BigEndian.AppendUint16(p, uint16(at)|more)
		p = append(append(p, id[:]...), part...)
		p[6] = protoFragment
		binary.BigEndian.PutUint16(p[4:], uint16(extension+len(part)))
		out = append(out, p)
	}
	return out
}
