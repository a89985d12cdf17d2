package attrib

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"outcall/netstack"
	"outcall/policy"
)

// Layout of linux/inet_diag.h: inet_diag_req_v2 is 56 bytes, inet_diag_msg 72,
// both with an inet_diag_sockid of 48.
const (
	sockDiagByFamily = 20
	diagReqLen       = 56
	diagMsgLen       = 72
	diagInodeOffset  = 68
	// diagTime bounds the wait for an answer that the kernel gives within the
	// request's own system call.
	diagTime = 100 * time.Millisecond
)

// diag looks sockets up in one network namespace. It is for one user at a
// time.
type diag struct {
	f   *os.File
	seq uint32
	buf []byte
}

// inode returns the inode of the socket that a flow of the namespace belongs
// to; 0 is none, or one that no process holds any more.
func (d *diag) inode(t netstack.Tuple) (uint64, error) {
	req, ok := diagRequest(t)
	if !ok {
		return 0, nil // the kernel has no exact lookup for it
	}
	d.seq++
	if err := d.f.SetDeadline(time.Now().Add(diagTime)); err != nil {
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	if _, err := d.f.Write(message(sockDiagByFamily, unix.NLM_F_REQUEST, d.seq, req)); err != nil {
		return 0, fmt.Errorf("sock_diag: ask: %w", err)
	}
	for {
		n, err := receive(d.f, d.buf)
		if err != nil {
			return 0, fmt.Errorf("sock_diag: answer: %w", err)
		}
		ino, found, err := parseDiag(d.buf[:n], d.seq)
		if found || err != nil {
			return ino, err
		}
	}
}

// diagRequest asks for exactly one socket. For UDP the kernel takes source
// and destination as the packet that arrives has them, for TCP as the socket
// has them.
func diagRequest(t netstack.Tuple) ([]byte, bool) {
	local, remote := t.Src, t.Dst
	proto := byte(unix.IPPROTO_TCP)
	switch t.Proto {
	case policy.TCP:
	case policy.UDP:
		proto = unix.IPPROTO_UDP
		local, remote = remote, local
	default:
		return nil, false
	}
	family := byte(unix.AF_INET)
	if t.Src.Addr().Unmap().Is6() {
		family = unix.AF_INET6
	}
	if !t.Src.IsValid() || !t.Dst.IsValid() || t.Src.Addr().Unmap().Is6() != t.Dst.Addr().Unmap().Is6() {
		return nil, false
	}
	b := make([]byte, 0, diagReqLen)
	b = append(b, family, proto, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, ^uint32(0)) // every state
	b = binary.BigEndian.AppendUint16(b, local.Port())
	b = binary.BigEndian.AppendUint16(b, remote.Port())
	b = append(b, field(local.Addr())...)
	b = append(b, field(remote.Addr())...)
	b = append(b, 0, 0, 0, 0)                                                                // any interface
	return append(b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), len(b) == diagReqLen-8 // no cookie
}

// field is an address in the 16 bytes that both families have.
func field(a netip.Addr) []byte {
	b := make([]byte, 16)
	copy(b, a.Unmap().AsSlice())
	return b
}

// parseDiag reads the answer with number seq. An unknown socket is no error.
func parseDiag(b []byte, seq uint32) (inode uint64, found bool, err error) {
	whole := split(b, func(h header, data []byte) {
		if h.seq != seq || found {
			return
		}
		switch {
		case h.typ == unix.NLMSG_ERROR && len(data) >= 4:
			found = true
			if e := unix.Errno(-int32(binary.NativeEndian.Uint32(data))); e != 0 && e != unix.ENOENT {
				err = fmt.Errorf("sock_diag: %w", e)
			}
		case h.typ == sockDiagByFamily && len(data) >= diagMsgLen:
			found = true
			inode = uint64(binary.NativeEndian.Uint32(data[diagInodeOffset:]))
		}
	})
	if !whole && !found {
		return 0, false, errors.New("sock_diag: an answer that cannot be parsed")
	}
	return inode, found, err
}
