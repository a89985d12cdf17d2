package gate

import (
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"outcall/sandbox/idmap"
	"outcall/sandbox/view"
)

// begin makes what the links need and the links, tells of them, and leaves
// init at work on the view: what the supervisor makes over sockets of the
// gateway (table, attribution, netstack) takes as long as that.
func (k *keeper) begin() (err error) {
	if err := k.limits(); err != nil {
		return err
	}
	if k.outer, err = openAt(unix.AT_FDCWD, "/proc", unix.O_PATH|unix.O_DIRECTORY); err != nil {
		return stageErr(StageInit, "open /proc", err)
	}
	// The first use of a capability: a security module that grants user
	// namespaces without their powers shows here.
	k.agent = newNSThread()
	if err := k.step(StageNetNS, "the agent's", k.agent.unshare); err != nil {
		return err
	}
	k.nets = newNSThread()
	if err := k.step(StageNetNS, "the agent's", func() error { return k.nets.join(k.agent.netNS) }); err != nil {
		return err
	}
	if err := k.startInit(); err != nil {
		return err
	}
	if k.linked, err = k.networkEarly(); err != nil || !k.linked {
		return err
	}
	return k.tellLinks()
}

// tellLinks says that the links stand. A tap device goes along.
func (k *keeper) tellLinks() error {
	var fds []int
	if k.info.Tap {
		fds = []int{k.tap}
	}
	info := k.info
	err := k.c.send(&message{Op: opLinked, Info: &info}, fds...)
	closeAll(fds)
	return err
}

// finish waits for the view, makes what is left and says that all stands, or
// what failed; then serve ends.
func (k *keeper) finish() {
	files, err := k.behindView()
	m := &message{Op: opStarted}
	if err != nil {
		closeAll(files)
		m.Err, files = stageErr(StageInit, "", err), nil
	} else {
		m.Info = &k.info
	}
	if serr := k.c.send(m, files...); err != nil || serr != nil {
		k.c.shutdown()
		return
	}
	closeAll(files)
	go func() {
		<-k.init.done
		k.c.shutdown()
	}()
	if k.o.View.WeakProc {
		go k.reapOrphans()
	}
}

// behindView makes what needs init's view, and returns what view.AgentFiles
// made.
func (k *keeper) behindView() (files []int, err error) {
	// The agent API's socket and the README.md come with the word.
	if files, err = k.fromInit(opView, agentFiles); err != nil {
		return nil, err
	}
	if err := k.step(StageEnter, "the agent's namespaces", k.enter); err != nil {
		return files, err
	}
	if !k.linked {
		if err = k.network(); err == nil {
			err = k.tellLinks()
		}
		if err != nil {
			return files, err
		}
	}
	k.noCgroupNamespaces()
	k.makeSpare() // beside init, which starts again meanwhile
	if err := k.awaitPid1(); err != nil {
		return files, err
	}
	k.info.KeeperPID = os.Getpid()
	k.info.InitPID = k.init.pid
	rs, err := ownMap("uid_map")
	if err != nil {
		return files, stageErr(StageUserNS, "", err)
	}
	k.info.Subordinate = k.o.IDs.Root && (len(rs) > 1 || rs[0].Size > 1)
	return files, nil
}

// step runs one stage under its name.
func (k *keeper) step(stage, detail string, f func() error) error {
	if err := inject(k.o.FailStage, stage); err != nil {
		return err
	}
	if err := f(); err != nil {
		return stageErr(stage, detail, err)
	}
	return nil
}

// limits are inherited by everything inside. Core dumps can be piped to a
// program that the kernel runs as root; a limit of 1, and no other, stops
// that too (core(5)).
func (k *keeper) limits() error {
	return k.step(StageRlimit, "core", func() error {
		return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1})
	})
}

// startInit starts pid 1, which then makes the view.
func (k *keeper) startInit() error {
	if err := inject(k.o.FailStage, StageInit); err != nil {
		return err
	}
	if k.o.View.FailStage == "" {
		k.o.View.FailStage = k.o.FailStage
	}
	flags := unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	if k.o.View.WeakProc {
		// Nothing else would hold the agent's processes together.
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return stageErr(StageInit, "become a reaper", err)
		}
	} else {
		flags |= unix.CLONE_NEWPID
	}
	start := func() error {
		return k.agent.do(func() error {
			var err error
			k.init, err = startStage(stageInit, k.exe, [3]int{-1, -1, -1}, &syscall.SysProcAttr{Cloneflags: uintptr(flags), Setsid: true})
			return err
		})
	}
	err := start()
	if errors.Is(err, unix.ENOSPC) {
		// Inside another session: it has a cgroup namespace already, and no
		// other can be made below it (see noCgroupNamespaces).
		flags &^= unix.CLONE_NEWCGROUP
		err = start()
	}
	if err != nil {
		return stageErr(StageInit, "start", err)
	}
	k.initNS = flags
	k.initConn = k.init.conn
	if err := k.initConn.sendDoc(&message{Op: opConfig}, k.o.View); err != nil {
		return stageErr(StageInit, "", err)
	}
	return nil
}

// awaitPid1 waits until init has started anew, without powers.
func (k *keeper) awaitPid1() error {
	_, err := k.fromInit(opReady, 0)
	return err
}

func (k *keeper) fromInit(op string, descriptors int) ([]int, error) {
	m, fds, err := k.initConn.recv()
	switch {
	case err != nil:
		return nil, stageErr(StageInit, "ended before it told of its "+op, err)
	case m.Err != nil:
		closeAll(fds)
		return nil, m.Err
	case m.Op != op || len(fds) != descriptors:
		closeAll(fds)
		return nil, &StageError{Stage: StageInit, Detail: "unexpected answer " + m.Op}
	}
	return fds, nil
}

// enter brings the agent's thread into the finished view and opens there what
// is needed later.
func (k *keeper) enter() (err error) {
	if err := k.agent.enter(k.init.pidfd, k.initNS); err != nil {
		return err
	}
	if k.proc, err = k.agent.open("/proc", unix.O_PATH|unix.O_DIRECTORY); err != nil {
		return err
	}
	// Stages that the agent could look at run from the copy on outcall's own
	// read-only mount: the host's file would be writable through /proc/PID/exe
	// (CVE-2019-5736).
	k.inner, err = k.agent.open(view.BinDir+"/outcall", unix.O_PATH)
	return err
}

// noCgroupNamespaces keeps the agent from mounting cgroups of its own. Who can
// make a user and a cgroup namespace can mount a fresh, writable cgroup2, and
// in a cgroup that is delegated to the user (cgroup.kill, cgroup.freeze) reach
// the host's processes beside it. The limit is U1's, so it binds all below.
func (k *keeper) noCgroupNamespaces() {
	if err := k.write("sys/user/max_cgroup_namespaces", "0"); err != nil {
		k.info.Notes = append(k.info.Notes, "cgroup namespaces can be made inside: "+err.Error())
	}
}

func ownMap(name string) ([]idmap.Range, error) {
	f, err := os.Open("/proc/self/" + name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rs, err := idmap.Parse(f)
	if err == nil && len(rs) == 0 {
		err = io.ErrUnexpectedEOF
	}
	return rs, err
}
