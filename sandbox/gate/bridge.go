package gate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// BridgeDown removes the bridge, and with it every way out. It is no error if
// it is down already.
func (c *Client) BridgeDown(ctx context.Context) error { return c.setBridge(ctx, "down") }

// BridgeUp makes the bridge again, by the code that made it first. It is no
// error if it is up already.
func (c *Client) BridgeUp(ctx context.Context) error { return c.setBridge(ctx, "up") }

func (c *Client) setBridge(ctx context.Context, how string) error {
	p, err := c.spawn(ctx, Gateway, Spec{}, commandDoc{Bridge: how})
	if err != nil {
		return fmt.Errorf("bridge %s: %w", how, err)
	}
	select {
	case <-p.Done():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// BridgeStatus tells the bridge's interface index in the gateway netns, 0 if
// it is gone, and whether it is up. It asks over a socket that was opened
// before the agent ran, so that it works when processes cannot be made.
func (c *Client) BridgeStatus(ctx context.Context) (index int, up bool, err error) {
	c.routeMu.Lock()
	defer c.routeMu.Unlock()
	if c.route == nil {
		return 0, false, errGone
	}
	index, up, err = linkStatus(c.route, c.network.Bridge)
	if err != nil {
		return 0, false, fmt.Errorf("ask for %s: %w", c.network.Bridge, err)
	}
	return index, up, nil
}

// linkStatus asks rtnetlink(7) for one link by name. The socket is
// non-blocking and the kernel answers within the send.
func linkStatus(f *os.File, name string) (index int, up bool, err error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	buf := make([]byte, 32<<10)
	n := 0
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, false, err
	}
	ctlErr := raw.Control(func(fd uintptr) {
		// Nothing else is read here, but an answer that was given up on may
		// still be queued.
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
		return 0, false, err
	}
	msgs, err := syscall.ParseNetlinkMessage(buf[:n])
	if err != nil {
		return 0, false, err
	}
	for _, m := range msgs {
		switch m.Header.Type {
		case unix.NLMSG_ERROR:
			if len(m.Data) < 4 {
				return 0, false, unix.EBADMSG
			}
			errno := syscall.Errno(-int32(nl.NativeEndian().Uint32(m.Data)))
			if errno == unix.ENODEV {
				return 0, false, nil
			}
			return 0, false, errno
		case unix.RTM_NEWLINK:
			if len(m.Data) < unix.SizeofIfInfomsg {
				return 0, false, unix.EBADMSG
			}
			info := nl.DeserializeIfInfomsg(m.Data)
			return int(info.Index), info.Flags&unix.IFF_UP != 0, nil
		}
	}
	return 0, false, unix.ENOMSG
}
