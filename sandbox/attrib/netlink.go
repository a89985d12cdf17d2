package attrib

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A header is what we use of a netlink message's.
type header struct {
	typ uint16
	seq uint32
}

// split calls f for each message of a datagram; false says that its end could
// not be parsed.
func split(b []byte, f func(header, []byte)) bool {
	for len(b) > 0 {
		if len(b) < unix.SizeofNlMsghdr {
			return false
		}
		n := int(binary.NativeEndian.Uint32(b))
		if n < unix.SizeofNlMsghdr || n > len(b) {
			return false
		}
		f(header{binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint32(b[8:])}, b[unix.SizeofNlMsghdr:n])
		b = b[min((n+3)&^3, len(b)):]
	}
	return true
}

// receive reads the next datagram that the kernel itself sent.
func receive(f *os.File, b []byte) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	for {
		var (
			n     int
			from  unix.Sockaddr
			inner error
		)
		err := raw.Read(func(fd uintptr) bool {
			n, from, inner = unix.Recvfrom(int(fd), b, unix.MSG_TRUNC|unix.MSG_DONTWAIT)
			return inner != unix.EAGAIN && inner != unix.EINTR
		})
		if err := errors.Join(err, inner); err != nil {
			return 0, err
		}
		if n > len(b) {
			return 0, fmt.Errorf("a netlink datagram of %d bytes, more than %d", n, len(b))
		}
		if a, ok := from.(*unix.SockaddrNetlink); ok && a.Pid == 0 {
			return n, nil
		}
	}
}
