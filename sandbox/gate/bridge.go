package gate

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// BridgeDown removes the bridge, and with it every way out. It is no error if
// it is down already. The socket was opened before the agent ran, and the
// kernel takes this from the owner of U1: egress can be cut when no process
// can be made, and by nobody's leave.
func (c *Client) BridgeDown(context.Context) error {
	_, err := c.askRoute(bridgeRequest(unix.RTM_DELLINK, unix.NLM_F_ACK, c.network.Bridge))
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove %s: %w", c.network.Bridge, err)
	}
	return nil
}

// BridgeUp makes the bridge again, by the code that made it first. It is no
// error if it is up already.
func (c *Client) BridgeUp(ctx context.Context) error {
	p, err := c.spawn(ctx, Gateway, Spec{}, commandDoc{BridgeUp: true})
	if err != nil {
		return fmt.Errorf("bridge up: %w", err)
	}
	select {
	case <-p.Done():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// BridgeStatus tells the bridge's interface index in the gateway netns, 0 if
// it is gone, and whether it is up. It needs no process, as BridgeDown.
func (c *Client) BridgeStatus(context.Context) (index int, up bool, err error) {
	data, err := c.askRoute(bridgeRequest(unix.RTM_GETLINK, 0, c.network.Bridge))
	if errors.Is(err, unix.ENODEV) {
		return 0, false, nil
	}
	if err == nil && len(data) < unix.SizeofIfInfomsg {
		err = unix.EBADMSG
	}
	if err != nil {
		return 0, false, fmt.Errorf("ask for %s: %w", c.network.Bridge, err)
	}
	info := nl.DeserializeIfInfomsg(data)
	return int(info.Index), info.Flags&unix.IFF_UP != 0, nil
}

func bridgeRequest(typ, flags int, name string) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(typ, flags)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	return req
}

// askRoute puts one question to rtnetlink(7) and returns the body of its
// answer; an acknowledgement has none. The kernel answers within the send.
func (c *Client) askRoute(req *nl.NetlinkRequest) ([]byte, error) {
	c.routeMu.Lock()
	defer c.routeMu.Unlock()
	if c.route == nil {
		return nil, errGone
	}
	raw, err := c.route.SyscallConn()
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 32<<10)
	n := 0
	ctlErr := raw.Control(func(fd uintptr) {
		// Nothing else is read here, but an answer that was given up on may
		// still be queued. The socket is non-blocking.
		for {
			if _, _, e := unix.Recvfrom(int(fd), buf, 0); e != nil {
				break
			}
		}
		if err = unix.Sendto(int(fd), req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err == nil {
			n, _, err = unix.Recvfrom(int(fd), buf, 0)
		}
	})
	if err := errors.Join(ctlErr, err); err != nil {
		return nil, err
	}
	return routeAnswer(buf[:n])
}

func routeAnswer(packet []byte) ([]byte, error) {
	msgs, err := syscall.ParseNetlinkMessage(packet)
	if err != nil {
		return nil, err
	}
	for _, m := range msgs {
		switch m.Header.Type {
		case unix.NLMSG_ERROR:
			if len(m.Data) < 4 {
				return nil, unix.EBADMSG
			}
			if errno := -int32(nl.NativeEndian().Uint32(m.Data)); errno != 0 {
				return nil, syscall.Errno(errno)
			}
			return nil, nil
		case unix.RTM_NEWLINK:
			return m.Data, nil
		}
	}
	return nil, unix.ENOMSG
}
