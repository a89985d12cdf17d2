package gate

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// hint is the mend for what a stage is most likely refused for.
func hint(e *StageError) string {
	switch e.Stage {
	case StageUserNS:
		return userNSHint(e)
	case StageHelper:
		return "newuidmap and newgidmap (package uidmap) must be set-uid root, and /etc/subuid and /etc/subgid must hold a range for this user"
	case StageNetNS:
		if e.Errno == unix.ENOSPC {
			return "network namespaces are switched off or used up: sudo sysctl -w user.max_net_namespaces=15000"
		}
		return noCapsHint()
	case StageInit, StageCommand:
		switch e.Errno {
		case unix.EAGAIN:
			return "the limit of processes is reached (ulimit -u, or pids.max of the cgroup)"
		case unix.ENOSPC, unix.EUSERS:
			return "raise user.max_user_namespaces, user.max_pid_namespaces and user.max_mnt_namespaces"
		}
	case StageBridge:
		if e.Errno == unix.EOPNOTSUPP || e.Errno == unix.ENODEV {
			return "the kernel has no bridge (CONFIG_BRIDGE): sudo modprobe bridge"
		}
	case StageUplink:
		if e.Errno == unix.EOPNOTSUPP || e.Errno == unix.ENODEV {
			return "the kernel has no veth (CONFIG_VETH): sudo modprobe veth"
		}
	case StagePacket:
		return packetHint + "; or use a tap device: --link tap"
	case StageTap:
		return tapHint(e)
	case StageSysctl:
		return "an outer container keeps /proc/sys read-only: " + unmask
	case StageSeccomp:
		return "the kernel needs CONFIG_SECCOMP_FILTER; in a container start it with --security-opt seccomp=unconfined"
	}
	return ""
}

const packetHint = "an outer filter forbids packet sockets (systemd: RestrictAddressFamilies= must name AF_PACKET; a container: --security-opt seccomp=unconfined)"

func tapHint(e *StageError) string {
	switch e.Errno {
	case unix.EACCES, unix.EPERM:
		return "let this user open the device: sudo chmod 0666 " + tunDevice + ", for good by a udev rule"
	case unix.ENOENT, unix.ENXIO, unix.ENODEV:
		return "the kernel's tun driver is not there: sudo modprobe tun; in a container: --device " + tunDevice
	}
	return "the kernel needs a tun driver (CONFIG_TUN)"
}

const unmask = "podman --security-opt unmask=ALL, docker --security-opt systempaths=unconfined, Kubernetes procMount: Unmasked"

func userNSHint(e *StageError) string {
	switch e.Errno {
	case unix.ENOSPC:
		return "user namespaces are switched off: sudo sysctl -w user.max_user_namespaces=15000"
	case unix.EUSERS:
		return "too many user namespaces within each other: 32 is the kernel's limit"
	case unix.EINVAL:
		return "the kernel has no user namespaces (CONFIG_USER_NS)"
	case unix.ENOSYS:
		return "an outer seccomp filter forbids user namespaces: start the container with --security-opt seccomp=unconfined"
	}
	if sysctl("kernel/unprivileged_userns_clone") == "0" {
		return "sudo sysctl -w kernel.unprivileged_userns_clone=1"
	}
	if apparmorRestricts() {
		return noCapsHint()
	}
	return "an outer seccomp filter or security module forbids user namespaces: in a container start it with --security-opt seccomp=unconfined"
}

// noCapsHint is for a user namespace that exists and has no powers.
func noCapsHint() string {
	if apparmorRestricts() {
		return AppArmorProfile(selfPath())
	}
	return "a user namespace was granted without capabilities: a security module (AppArmor, SELinux) or an outer seccomp filter takes them; " +
		"in a container start it with --security-opt seccomp=unconfined --security-opt apparmor=unconfined"
}

func apparmorRestricts() bool {
	return sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1"
}

// AppArmorProfile is what a system with
// kernel.apparmor_restrict_unprivileged_userns=1 (Ubuntu since 23.10) needs so
// that the program at path may have user namespaces with their capabilities.
func AppArmorProfile(path string) string {
	return fmt.Sprintf(`AppArmor grants user namespaces to named programs only. Write this to /etc/apparmor.d/outcall:
  abi <abi/4.0>,
  include <tunables/global>
  profile outcall "%s" flags=(unconfined) {
    userns,
  }
then: sudo apparmor_parser -r /etc/apparmor.d/outcall
(or, for all programs: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0)`, strings.ReplaceAll(path, `"`, `\"`))
}

func sysctl(name string) string {
	b, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func selfPath() string {
	p, err := os.Executable()
	if err != nil {
		return "/path/to/outcall"
	}
	return p
}
