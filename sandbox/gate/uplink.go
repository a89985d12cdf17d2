package gate

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The two ways in which the netstack hangs on uplink0:
//
//	packet   uplink0 is a veth; the supervisor asks for a packet socket
//	         (socket) and binds it to the other end, uplink1
//	tap      uplink0 is a tap device; its descriptor comes with started,
//	         and there is no uplink1
//
// Either way uplink0 has the same name and address, no IP address and
// permanent neighbours, so that routes, table and netstack are the same.
const (
	LinkAuto   = "auto" // packet, and tap where the kernel refuses packet sockets
	LinkPacket = "packet"
	LinkTap    = "tap"
)

// tunDevice is where the kernel's tun driver is met. It is opened outside of
// the agent's view and with the rights of U1's owner.
const tunDevice = "/dev/net/tun"

func (k *keeper) uplink(l *linker) error {
	if k.o.Network.Link == LinkTap {
		return k.tapUplink(l, nil)
	}
	refused := k.packetRefused()
	if refused == nil {
		if err := l.vethUplink(); err != nil {
			return err
		}
		if err := cutDatagrams(Uplink0); err != nil {
			k.info.Notes = append(k.info.Notes, "what programs send by UDP_SEGMENT (QUIC in bulk) is lost: "+err.Error())
		}
		return nil
	}
	if k.o.Network.Link == LinkPacket {
		return stageErr(StagePacket, "", refused)
	}
	return k.tapUplink(l, refused)
}

// packetRefused makes the socket that the supervisor will ask for (socket
// hands it out): to close one that was only tried takes as long as the kernel
// needs to hear from every processor.
func (k *keeper) packetRefused() error {
	if k.o.FailStage == StagePacket {
		return unix.EPERM
	}
	fd, err := unix.Socket(unix.AF_PACKET, packetType, 0)
	if err == nil {
		k.packet.Store(int32(fd))
	}
	return err
}

// packetType is that of Client.PacketSocket.
const packetType = unix.SOCK_RAW | unix.SOCK_CLOEXEC

// tapUplink makes the device; its descriptor is the keeper's until it is sent.
// packet says why it is not a packet socket, nil where a tap was asked for.
func (k *keeper) tapUplink(l *linker, packet error) error {
	fd, err := openTap(Uplink0)
	if err != nil {
		e := stageErr(StageTap, "", err)
		if packet == nil {
			e.Hint += "; without --link tap packet sockets are used, which need no device"
		} else {
			e.Detail = join("packet socket: "+packet.Error(), e.Detail)
			e.Hint = packetHint + "; or " + e.Hint
		}
		return e
	}
	k.tap, k.info.Tap = fd, true
	return l.tapUplink()
}

// openTap makes a tap device in the calling thread's network namespace: one
// frame a read, without a header before it. Non-blocking, so that its reader
// can be stopped; the device goes with the last descriptor.
func openTap(name string) (int, error) {
	fd, err := openAt(unix.AT_FDCWD, tunDevice, unix.O_RDWR|unix.O_NONBLOCK)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", tunDevice, err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("%s: make %s: %w", tunDevice, name, err)
	}
	return fd, nil
}

func (l *linker) vethUplink() error {
	v := &netlink.Veth{LinkAttrs: attrs(Uplink0, uplink0MAC), PeerName: Uplink1, PeerHardwareAddr: net.HardwareAddr(uplink1MAC[:]), PeerMTU: linkMTU}
	if err := l.h.LinkAdd(v); err != nil {
		return fmt.Errorf("add %s: %w", Uplink0, err)
	}
	if err := l.silent(Uplink0); err != nil {
		return err
	}
	return l.silent(Uplink1)
}

// tapUplink gives the device what a veth is made with. The MTU is the agent's
// own: what is larger would have to be cut up behind the netstack.
func (l *linker) tapUplink() error {
	tap, err := l.h.LinkByName(Uplink0)
	if err != nil {
		return fmt.Errorf("find %s: %w", Uplink0, err)
	}
	if err := l.h.LinkSetHardwareAddr(tap, net.HardwareAddr(uplink0MAC[:])); err != nil {
		return fmt.Errorf("address of %s: %w", Uplink0, err)
	}
	if err := l.h.LinkSetMTU(tap, linkMTU); err != nil {
		return fmt.Errorf("MTU of %s: %w", Uplink0, err)
	}
	return l.silent(Uplink0)
}

func (k *keeper) uplinkUp(l *linker) error {
	names := []string{Uplink0, "lo"}
	if !k.info.Tap {
		names = append(names, Uplink1)
	}
	for _, name := range names {
		if err := l.up(name); err != nil {
			return err
		}
	}
	return nil
}

// uplinkNoIPv6 keeps the kernel from reading what the netstack sends on
// uplink1. A tap has no such end: uplink0 is what routes.
func (k *keeper) uplinkNoIPv6() error {
	if !k.info.IPv6 || k.info.Tap {
		return nil
	}
	return k.writeSettings([]setting{{"ipv6/conf/" + Uplink1 + "/disable_ipv6", "1"}})
}
