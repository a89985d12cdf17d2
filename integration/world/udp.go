package world

import (
	"context"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// listenUDP listens at every address. Answering from one of them, which no
// interface has, needs IPV6_FREEBIND; IPv4 is content with the local route.
func listenUDP(family string, port uint16) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) {
			if network == "udp6" {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
			}
		}); cerr != nil {
			return cerr
		}
		return err
	}}
	return lc.ListenPacket(context.Background(), family, fmt.Sprintf(":%d", port))
}

// A replier echoes datagrams from the very address that they were sent to.
type replier struct {
	pc net.PacketConn
	v4 *ipv4.PacketConn
	v6 *ipv6.PacketConn
}

func newReplier(family string, port uint16) (*replier, error) {
	pc, err := listenUDP(family, port)
	if err != nil {
		return nil, err
	}
	r := &replier{pc: pc}
	if family == "udp4" {
		r.v4 = ipv4.NewPacketConn(pc)
		err = r.v4.SetControlMessage(ipv4.FlagDst, true)
	} else {
		r.v6 = ipv6.NewPacketConn(pc)
		err = r.v6.SetControlMessage(ipv6.FlagDst, true)
	}
	if err != nil {
		pc.Close()
		return nil, err
	}
	return r, nil
}

func (r *replier) Close() error { return r.pc.Close() }

func (r *replier) run() {
	buf := make([]byte, 1<<16)
	for {
		if r.v4 != nil {
			n, cm, from, err := r.v4.ReadFrom(buf)
			if err != nil {
				return
			}
			if cm != nil {
				r.v4.WriteTo(buf[:n], &ipv4.ControlMessage{Src: cm.Dst}, from)
			}
			continue
		}
		n, cm, from, err := r.v6.ReadFrom(buf)
		if err != nil {
			return
		}
		if cm != nil {
			r.v6.WriteTo(buf[:n], &ipv6.ControlMessage{Src: cm.Dst}, from)
		}
	}
}
