package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"outcall/sandbox/gate"
	"outcall/sandbox/probe"
)

// stageLayers says which layer of the report a stage of the gatekeeper's, of
// its view or of a command's start belongs to. A stage that is not here is one
// of the view's.
var stageLayers = map[string]string{
	gate.StageUserNS: probe.UserNS, gate.StageNetNS: probe.NetNS, gate.StageHelper: probe.SubIDs,
	gate.StageInit: probe.Namespaces, gate.StageEnter: probe.Namespaces, gate.StageRlimit: probe.Caps,
	gate.StageSysctl: probe.Links, gate.StageBridge: probe.Links, gate.StageUplink: probe.Links,
	gate.StageRoute: probe.Links, gate.StageSocket: probe.Links,
	gate.StagePacket: probe.Packet, gate.StageTap: probe.Tap, "proc": probe.Proc,
	gate.StageCommand: probe.Command, gate.StageKeyring: probe.Command, gate.StageCaps: probe.Command,
	gate.StageSeccomp: probe.Seccomp, gate.StageExec: probe.Session,
	"protocol": probe.Session, "gatekeeper": probe.Session,
}

func layerOf(err error) string {
	e, ok := errors.AsType[*gate.StageError](err)
	if !ok {
		return probe.Session
	}
	refused := e.Errno == unix.EPERM || e.Errno == unix.EACCES
	if e.Stage == gate.StageUserNS && e.Detail == gate.NoCapabilities || e.Stage == gate.StageNetNS && refused {
		// Both namespaces are made by one clone: where the network's is refused
		// for want of a right, the user namespace came without it.
		return probe.Caps
	}
	if l, ok := stageLayers[e.Stage]; ok {
		return l
	}
	return probe.View
}

// mendOf is the mend that an error brings along.
func mendOf(err error) string {
	if e, ok := errors.AsType[*gate.StageError](err); ok {
		return e.Hint
	}
	return ""
}

// overlay tries what the supervisor makes over the gatekeeper's descriptors,
// each for itself, and tells whether a command can be started on it.
func (d *diagnosis) overlay(ctx context.Context, s *supervisor) bool {
	whole := true
	try := func(layer string, err error) {
		if err == nil {
			d.r.Stood(layer)
			return
		}
		whole = false
		d.r.Refused(layer, probe.Missing, err.Error(), mendOf(nftRefused(err)))
	}
	try(probe.NFTables, s.startTable(ctx))
	err := s.startAttribution(ctx)
	if err != nil && s.finder == nil {
		try(probe.Attribution, err)
	} else {
		try(probe.NFLog, err)
	}
	if whole {
		err := s.startStack(ctx)
		d.link(s, err)
		whole = err == nil
	}
	try(probe.HostSocket, s.startAPI(ctx))
	return whole
}

// link enters what the netstack hangs on.
func (d *diagnosis) link(s *supervisor, err error) {
	layer, mend := probe.Packet, "a tap device goes without: --link tap"
	if s.info.Tap {
		layer, mend = probe.Tap, ""
	}
	switch {
	case err == nil:
		d.r.Stood(layer)
		if d.packet != nil {
			d.r.Set(probe.Packet, probe.Weak, d.packet.Error()+": a run takes the tap device", mendOf(d.packet))
		}
	case s.linkName != "" && s.pins == nil: // it failed at the link
		d.r.Refused(layer, probe.Missing, err.Error(), mend)
	default:
		d.r.Refused(probe.RoundTrip, probe.Missing, err.Error(), "")
	}
}

// inside starts the command that looks from the agent's place, and enters what
// it says.
func (d *diagnosis) inside(ctx context.Context, t *trial) {
	found, code, err := t.look(ctx)
	for _, f := range found {
		if f.Err != "" {
			d.r.Refused(f.Layer, probe.Missing, f.Err, "")
			continue
		}
		d.r.Stood(f.Layer)
		if l := d.r.Layer(f.Layer); l.Status == probe.OK {
			l.Got = f.Got
		}
	}
	switch {
	case err != nil:
		layer := layerOf(err)
		d.r.Refused(layer, probe.Missing, err.Error(), mendOf(err))
	case code != 0:
		d.r.Set(probe.Session, probe.Missing, fmt.Sprintf("the command of a trial session ended with code %d", code), "")
	default:
		d.ran(t)
	}
}

// ran enters a session that did all it should.
func (d *diagnosis) ran(t *trial) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.exe == "" {
		d.r.Set(probe.Attribution, probe.Weak, "no process was found behind the trial's denied connection: process.* is hidden",
			"the kernel needs sock_diag for TCP and UDP (CONFIG_INET_DIAG, CONFIG_INET_UDP_DIAG): sudo modprobe -a inet_diag tcp_diag udp_diag")
	} else {
		d.r.Stood(probe.Attribution)
		if l := d.r.Layer(probe.Attribution); l.Status == probe.OK {
			l.Got = "the process behind the trial's denied connection was found"
		}
	}
	took := time.Since(t.started).Round(time.Millisecond)
	got, status := fmt.Sprintf("a trial session ran a command and ended in %v", took), probe.OK
	if len(t.cfg.Weak) > 0 {
		got, status = "a trial session ran only with --weak "+t.cfg.Weak[0], probe.Weak
	}
	d.r.Set(probe.Session, status, got, "")
}

// look runs the command of the trial and reads what it found.
func (t *trial) look(ctx context.Context) (found []probe.Finding, code int, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, 0, err
	}
	defer r.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		w.Close()
		return nil, 0, err
	}
	defer null.Close()
	t.cfg.Stdin, t.cfg.Stdout, t.cfg.Stderr = null, w, null
	var readErr error
	read := make(chan struct{})
	go func() { // ends with the last writer, or at the deadline below
		defer close(read)
		found, readErr = probe.ReadFindings(r)
	}()
	code, err = t.session(ctx, make(chan os.Signal))
	w.Close()
	_ = r.SetReadDeadline(time.Now().Add(endGrace))
	<-read
	var errno syscall.Errno
	if err == nil && code == 0 && readErr != nil && !errors.As(readErr, &errno) {
		err = readErr
	}
	return found, code, err
}
