package gate

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// cutDatagrams makes the kernel cut what a program sends by UDP_SEGMENT into its
// datagrams before they leave by a veth. A packet socket would be given them as
// one, whose seams the netstack does not learn; of TCP it wants just that.
func cutDatagrams(link string) error {
	f, err := netlink.GenlFamilyGet("ethtool")
	if err != nil {
		return fmt.Errorf("ethtool by generic netlink: %w", err)
	}
	nested := func(typ int) *nl.RtAttr { return nl.NewRtAttr(typ|unix.NLA_F_NESTED, nil) }
	head := nested(unix.ETHTOOL_A_FEATURES_HEADER)
	head.AddRtAttr(unix.ETHTOOL_A_HEADER_DEV_NAME, nl.ZeroTerminated(link))
	wanted := nested(unix.ETHTOOL_A_FEATURES_WANTED)
	bit := wanted.AddRtAttr(unix.ETHTOOL_A_BITSET_BITS|unix.NLA_F_NESTED, nil).AddRtAttr(unix.ETHTOOL_A_BITSET_BITS_BIT|unix.NLA_F_NESTED, nil)
	bit.AddRtAttr(unix.ETHTOOL_A_BITSET_BIT_NAME, nl.ZeroTerminated("tx-udp-segmentation")) // without a value: off
	req := nl.NewNetlinkRequest(int(f.ID), unix.NLM_F_ACK)
	req.AddData(&nl.Genlmsg{Command: unix.ETHTOOL_MSG_FEATURES_SET, Version: 1})
	req.AddData(head)
	req.AddData(wanted)
	if _, err := req.Execute(unix.NETLINK_GENERIC, 0); err != nil {
		return fmt.Errorf("%s: tx-udp-segmentation off: %w", link, err)
	}
	return nil
}
