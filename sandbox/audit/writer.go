package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"outcall/netstack"
	"outcall/policy"
)

const (
	// MaxWait bounds how long Record waits for the disk. A disk that is slower
	// gets its lines later; the verdict goes on.
	MaxWait = 50 * time.Millisecond
	// MaxHang is when a disk that does not answer counts as one that refuses.
	MaxHang = 10 * time.Second
	// maxPending bounds the lines that wait for a slow disk. Beyond it events
	// are only counted.
	maxPending = 4 << 20
	// retryTime is how long the writer waits after the disk refused a line.
	retryTime = time.Second
)

// ErrHung says that the disk has not answered for MaxHang.
var ErrHung = errors.New("the disk does not answer")

// Genesis is the prev of a file's first line.
var Genesis = strings.Repeat("0", sha256.Size*2)

// Options say where a session's record goes.
type Options struct {
	Path           string
	Session, Agent string // for events that name none
	// Private asks for a directory that is the user's own with mode 0700; it is
	// made where it is missing. Without, the directory must be there.
	Private bool
	// MaxBytes is the session's budget; 0 is MaxBytes.
	MaxBytes int64
	// Report, if set, is told once each time the disk begins to refuse lines,
	// and with nil when it takes them again. It must not wait.
	Report func(error)
}

// A Writer writes one session's record. Its methods are safe for concurrent
// use.
type Writer struct {
	o    Options
	path string
	f    disk
	done chan struct{} // the writing goroutine has ended
	kick chan struct{} // something is pending
	quit chan struct{} // closed by Close

	mu      sync.Mutex
	closed  bool
	b       budget
	seq     uint64
	head    [sha256.Size]byte
	begun   bool
	pending []byte
	flying  []byte        // the batch that was with the disk last
	batch   chan struct{} // closed when pending is on disk
	stalled bool          // the disk was slower than MaxWait
	err     error         // the disk's present refusal
	writing bool          // a batch is with the disk
	hang    *time.Timer   // runs meanwhile
	full    [classes]bool // a limit line has told that the budget is spent
	timer   *time.Timer
	follow  followers
	top     summary
}

// A disk is what a Writer needs of its file.
type disk interface {
	Write([]byte) (int, error)
	Truncate(int64) error
	Sync() error
	Close() error
}

var _ netstack.Auditor = (*Writer)(nil)

// Open begins a session's record. An older session's file at the path is
// rotated; ErrInUse says that its session still lives.
func Open(o Options) (*Writer, error) {
	f, err := openFile(o.Path, o.Private)
	if err != nil {
		return nil, err
	}
	return newWriter(o, f), nil
}

func newWriter(o Options, f disk) *Writer {
	if o.MaxBytes == 0 {
		o.MaxBytes = MaxBytes
	}
	w := &Writer{o: o, path: o.Path, f: f, done: make(chan struct{}), kick: make(chan struct{}, 1), quit: make(chan struct{}),
		b: newBudget(o.MaxBytes), batch: make(chan struct{})}
	w.follow.init()
	w.top.init()
	w.timer = time.AfterFunc(time.Hour, w.tick)
	w.timer.Stop()
	w.hang = time.AfterFunc(time.Hour, func() { w.settle(ErrHung) })
	w.hang.Stop()
	go w.run()
	return w
}

// Path returns the file's path.
func (w *Writer) Path() string { return w.path }

// Record takes an event: as a line, or counted with others. A verdict's line
// is with the kernel when Record returns, unless the disk refuses it, which
// Err tells then, or needs longer than MaxWait. Time, session and agent are filled in where they are empty; seq
// and prev are the writer's.
func (w *Writer) Record(e policy.Event) {
	e = bounded(e)
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return
	}
	now := time.Now()
	if e.Time.IsZero() {
		e.Time = now
	}
	if e.Session == "" {
		e.Session = w.o.Session
	}
	if e.Agent == "" {
		e.Agent = w.o.Agent
	}
	w.top.add(&e)
	w.flushDue(now, false)
	wrote := w.admit(e, now)
	w.arm(now)
	batch, wait := w.batch, wrote && (e.Event == "verdict" || e.Event == "start") && !w.stalled && w.err == nil
	w.mu.Unlock()
	if wait {
		w.await(batch)
	}
}

// await waits for a batch to be on disk.
func (w *Writer) await(batch <-chan struct{}) {
	t := time.NewTimer(MaxWait)
	defer t.Stop()
	select {
	case <-batch:
	case <-t.C:
		w.mu.Lock()
		select {
		case <-batch:
		default:
			w.stalled = true // the next ones do not wait, until a batch is written
		}
		w.mu.Unlock()
	}
}

// admit writes an event as a line if the budgets allow it, and counts it
// otherwise.
func (w *Writer) admit(e policy.Event, now time.Time) bool {
	c := classOf(&e)
	w.b.roll(now)
	sums := c == denied || c == limits
	if sums && w.b.summed(&e) {
		return false
	}
	if !w.fits(c) {
		w.b.overflow(&e, now)
		return false
	}
	w.line(e, c)
	if sums {
		w.b.open(&e, now)
	}
	return true
}

// fits says whether a line of a class may be written now. That the session's
// budget is spent is itself told once.
func (w *Writer) fits(c class) bool {
	if len(w.pending) >= maxPending || !w.b.lineLeft(c) {
		return false
	}
	if w.b.spaceLeft(c) {
		return true
	}
	if !w.full[c] && c != control && w.b.lineLeft(control) {
		w.full[c] = true
		what := map[class]string{denied: "denials", limits: "limits", allowed: "allows"}[c]
		w.line(policy.Event{Time: time.Now(), Event: "limit", Session: w.o.Session, Agent: w.o.Agent,
			Reason: fmt.Sprintf("audit: %s are only counted from here on (%d of %d bytes are used)", what, w.b.bytes(), w.b.maxBytes)}, control)
	}
	return false
}

// line chains an event and hands it to the file and the followers.
func (w *Writer) line(e policy.Event, c class) {
	w.seq += weight(&e)
	e.Seq, e.Prev = w.seq, Genesis
	if w.begun {
		e.Prev = hex.EncodeToString(w.head[:])
	}
	start := len(w.pending)
	w.pending = appendEvent(w.pending, &e)
	line := w.pending[start:]
	w.head, w.begun = sha256.Sum256(line), true
	w.b.used[c] += int64(len(line))
	w.b.lines[c]++
	w.follow.send(line)
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// flushDue writes the sums and overflow counts whose time has come. A sum that
// finds no budget is counted as overflow, so the order is this one.
func (w *Writer) flushDue(now time.Time, all bool) {
	w.b.roll(now)
	late := now
	if all {
		late = now.Add(window)
	}
	for _, e := range w.b.due(late) {
		if c := classOf(&e); w.fits(c) {
			w.line(e, c)
		} else {
			w.b.overflow(&e, now)
		}
	}
	for _, e := range w.b.overflows(now, all) {
		e.Time = now
		if all || len(w.pending) < maxPending && w.b.spaceLeft(control) {
			w.line(e, control)
		} else {
			w.b.overflow(&e, now)
		}
	}
}

// tick runs when a sum or an overflow count is due.
func (w *Writer) tick() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	now := time.Now()
	w.flushDue(now, false)
	w.arm(now)
}

// arm sets the timer to what is due next.
func (w *Writer) arm(now time.Time) {
	if next := w.b.next(); !next.IsZero() {
		w.timer.Reset(max(next.Sub(now), time.Millisecond))
	}
}

// Head returns the SHA-256 of the last line in hex, which `log verify --head`
// takes; Genesis before the first.
func (w *Writer) Head() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.begun {
		return Genesis
	}
	return hex.EncodeToString(w.head[:])
}

// Err returns what the disk presently refuses lines with; nil is none. Lines
// that it refuses wait in memory, and beyond maxPending are counted.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Close writes what was only counted so far and closes the file. Followers'
// channels are closed.
func (w *Writer) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		<-w.done
		return nil
	}
	w.flushDue(time.Now(), true)
	w.closed = true
	w.timer.Stop()
	w.follow.closeAll()
	w.mu.Unlock()
	close(w.quit)
	<-w.done
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := errors.Join(w.err, w.f.Sync(), w.f.Close()); err != nil {
		return fmt.Errorf("audit: close %s: %w", w.path, err)
	}
	return nil
}

// run is the writing goroutine; it ends with Close.
func (w *Writer) run() {
	defer close(w.done)
	var size int64
	for last := false; ; {
		select {
		case <-w.kick:
		case <-w.quit:
			last = true
		}
		for {
			w.mu.Lock()
			lines, batch := w.pending, w.batch
			w.flying, w.pending, w.batch = lines, nil, make(chan struct{})
			w.mu.Unlock()
			if len(lines) == 0 {
				break
			}
			if !w.write(lines, &size) {
				return
			}
			close(batch)
		}
		if last {
			return
		}
	}
}

// write puts lines on disk, however often it takes; false says that the disk
// still refused when the Writer was closed.
func (w *Writer) write(lines []byte, size *int64) bool {
	for {
		w.busy(true)
		n, err := w.f.Write(lines)
		w.busy(false)
		if err == nil {
			*size += int64(n)
			w.settle(nil)
			return true
		}
		if n > 0 { // no half lines
			err = errors.Join(err, w.f.Truncate(*size))
		}
		if closed := w.settle(err); closed {
			return false
		}
		retry := time.NewTimer(retryTime)
		select {
		case <-retry.C:
		case <-w.quit: // one more try
		}
		retry.Stop()
	}
}

// busy says that a batch is, or is no longer, with the disk.
func (w *Writer) busy(writing bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writing = writing
	if writing {
		w.hang.Reset(MaxHang)
	} else {
		w.hang.Stop()
	}
}

// settle records how the disk does.
func (w *Writer) settle(err error) (closed bool) {
	w.mu.Lock()
	if err == ErrHung && !w.writing { // it has answered just now
		w.mu.Unlock()
		return false
	}
	turned := (err != nil) != (w.err != nil)
	w.err = err
	if err == nil {
		w.stalled = false
	}
	closed = w.closed
	w.mu.Unlock()
	if turned && w.o.Report != nil {
		if err != nil {
			err = fmt.Errorf("write %s: %w", w.path, err)
		}
		w.o.Report(err)
	}
	return closed
}

var _ disk = (*os.File)(nil)
