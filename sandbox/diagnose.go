package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"outcall/policy"
	"outcall/sandbox/gate"
	"outcall/sandbox/idmap"
	"outcall/sandbox/probe"
	"outcall/sandbox/view"
)

const (
	// trialTime bounds the command of one trial.
	trialTime = 30 * time.Second
	// maxTrials bounds how often a trial is begun again around what was
	// refused: kept root, another session directory, another working directory,
	// the outer /proc, a tap.
	maxTrials = 6
)

// Diagnose tells what each layer of a session gets on this machine. It makes
// trial sessions by the stages of Run, in their order, and where one stage is
// refused goes around it if there is a way, so that the layers after it are
// tried as well. Of cfg it uses what a run without flags would have; Command
// is what is started inside, which must call probe.Inside. An error means that
// the caller went away before the answer.
func Diagnose(ctx context.Context, cfg Config) (probe.Report, error) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer stop()
	cfg.Sources = func() ([]policy.Source, error) { return nil, nil }
	cfg.Link, cfg.Quiet, cfg.Timeout = gate.LinkPacket, true, trialTime
	d := &diagnosis{cfg: cfg, r: probe.New()}
	defer d.close()
	d.kernel()
	d.routes()
	for n := 0; n < maxTrials && d.trial(ctx); n++ {
	}
	d.tap(ctx)
	d.subordinate(ctx)
	d.protocols()
	if ctx.Err() != nil {
		return probe.Report{}, fmt.Errorf("doctor: %w", context.Cause(ctx))
	}
	d.r.Done()
	return *d.r, nil
}

// A diagnosis is one call of Diagnose.
type diagnosis struct {
	cfg     Config // of the next trial
	r       *probe.Report
	private string // in the place of a session directory that cannot be had
	packet  error  // why packet sockets are refused, nil if they are not
}

func (d *diagnosis) close() {
	if d.private != "" {
		_ = os.RemoveAll(d.private)
	}
}

// A trial is a supervisor whose session leaves nothing behind.
type trial struct {
	*supervisor
	mu  sync.Mutex
	exe string // who was found behind the attempt that Inside makes
}

// begin goes as far as a session that has no sandbox yet. What fails is
// entered; nil means that no session can be had at all, or only by another
// trial.
func (d *diagnosis) begin(ctx context.Context, cfg Config) (t *trial, again bool) {
	cfg.Name = trialName()
	t = &trial{supervisor: &supervisor{cfg: cfg, trial: true, stopping: make(chan struct{}), started: time.Now()}}
	if err := t.startIdentity(ctx); err != nil {
		d.r.Set(probe.Identity, probe.Missing, err.Error(), "run outcall as another user than root, or with --as-root on a throw-away machine")
		again = isAsRoot(err) && !d.cfg.AsRoot
		d.cfg.AsRoot = again || d.cfg.AsRoot
		return nil, again
	}
	d.identity(t.ids)
	if err := t.startRules(ctx); err != nil {
		d.r.Set(probe.Session, probe.Missing, err.Error(), "")
		return nil, false
	}
	d.upstream(t.supervisor, t.startUpstream(ctx))
	if d.private != "" {
		t.env.RuntimeDir = d.private
	}
	if err := t.startSession(ctx); err != nil {
		t.leave(ctx)
		return nil, d.noSession(t.supervisor, err)
	}
	if d.private == "" {
		d.directories(t.supervisor)
	}
	t.audit.seen = t.saw
	return t, false
}

func isAsRoot(err error) bool {
	_, ok := errors.AsType[*idmap.AsRootError](err)
	return ok
}

// noSession enters which directory was refused, and finds another one for the
// trials that follow.
func (d *diagnosis) noSession(s *supervisor, err error) (again bool) {
	if s.sess != nil {
		d.r.Set(probe.StateDir, probe.Missing, err.Error(), "")
		return false
	}
	d.r.Set(probe.SessionDir, probe.Missing, err.Error(),
		"remove "+s.env.Root()+" or give it to this user with mode 0700, or set XDG_RUNTIME_DIR to a directory of this user's with mode 0700")
	if d.private != "" {
		return false
	}
	d.private, err = os.MkdirTemp("", "outcall-doctor-")
	return err == nil
}

// leave ends a trial and removes its audit, which a session would keep. Its
// directory has the trial's name, wherever it stands.
func (t *trial) leave(ctx context.Context) {
	t.end(context.WithoutCancel(ctx))
	if t.sess == nil {
		return
	}
	if dir := filepath.Dir(t.sess.Info.Audit); filepath.Base(dir) == t.cfg.Name {
		_ = os.RemoveAll(dir)
	}
}

// saw keeps whom the attribution found behind the denied connection.
func (t *trial) saw(e policy.Event) {
	t.supervisor.seen(e)
	if e.Process == nil || e.Layer != "flow" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.exe = e.Process.Exe
}

// trialName is free: with fewer bits an older session's audit could have it.
func trialName() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return "doctor-" + hex.EncodeToString(b[:])
}

// trial goes through all stages. It tells whether it should be done again,
// with d.cfg changed so as to go around what was refused.
func (d *diagnosis) trial(ctx context.Context) (again bool) {
	t, again := d.begin(ctx, d.cfg)
	if t == nil {
		return again
	}
	defer t.leave(ctx)
	if err := t.wholeSandbox(ctx); err != nil {
		return ctx.Err() == nil && d.noSandbox(err)
	}
	d.r.Stood(probe.Proc, probe.View, probe.Links)
	if l := d.r.Layer(probe.View); l.Status == probe.Missing && l.Mend == "" {
		l.Mend = "in / it could be made: start from another directory, or give --workdir DIR"
	}
	if !t.info.IPv6 && len(t.cfg.Weak) == 0 {
		d.r.Set(probe.IPv6, probe.Weak, "the kernel has no IPv6: sessions carry IPv4 only", "")
	}
	if d.overlay(ctx, t.supervisor) {
		d.inside(ctx, t)
	}
	return false
}

// wholeSandbox waits for what a run lets go on beside its next stages.
func (s *supervisor) wholeSandbox(ctx context.Context) error {
	if err := s.startSandbox(ctx); err != nil {
		return err
	}
	return s.awaitSandbox(ctx)
}

// A planError says that a view was refused before a gatekeeper was started.
type planError struct{ error }

func (e *planError) Unwrap() error { return e.error }

func planned(spec view.Spec, err error) (view.Spec, error) {
	if err != nil {
		err = &planError{err}
	}
	return spec, err
}

// noSandbox enters what the gatekeeper was refused.
func (d *diagnosis) noSandbox(err error) (again bool) {
	if _, ok := errors.AsType[*planError](err); ok {
		d.r.Set(probe.View, probe.Missing, err.Error(), mendOf(err))
		again, d.cfg.Dir = d.cfg.Dir != "/", "/"
		return again
	}
	layer := layerOf(err)
	switch {
	case layer == probe.Packet && d.cfg.Link == gate.LinkPacket:
		// What a run does by itself: its auto takes a tap then.
		d.r.Stood(probe.Namespaces)
		d.packet, d.cfg.Link = err, gate.LinkTap
		return true
	case layer == probe.Tap && d.packet != nil:
		d.r.Set(probe.Packet, probe.Missing, d.packet.Error(), mendOf(d.packet))
	case layer == probe.Proc && len(d.cfg.Weak) == 0:
		d.cfg.Weak, again = []string{"proc"}, true
	}
	d.r.Refused(layer, probe.Missing, err.Error(), mendOf(err))
	return again
}
