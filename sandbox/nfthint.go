package sandbox

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"

	"outcall/sandbox/gate"
)

// nftRefused gives an error of the table its mend: the namespaces stand by
// then, so what refuses is a filter around us or a kernel without the module.
func nftRefused(err error) error {
	var errno syscall.Errno
	if err == nil || !errors.As(err, &errno) {
		return err
	}
	e := &gate.StageError{Stage: "table inet outcall", Detail: err.Error()}
	switch errno {
	case unix.EPERM, unix.EACCES, unix.EAFNOSUPPORT:
		e.Hint = "an outer filter forbids netfilter sockets (systemd: RestrictAddressFamilies= must name AF_NETLINK; " +
			"a container: --security-opt seccomp=unconfined)"
	case unix.EPROTONOSUPPORT, unix.EOPNOTSUPP, unix.ENOENT, unix.EINVAL:
		e.Hint = "the kernel has no nftables or not all of it (CONFIG_NF_TABLES_INET, CONFIG_NFT_LOG, CONFIG_NETFILTER_NETLINK_LOG): sudo modprobe -a nf_tables nfnetlink_log"
	default:
		return err
	}
	return e
}
