package hostapi

import (
	"encoding/binary"
	"io"
	"sync"
)

// An inputQueue holds the stdin bytes of an exec that the command has not
// read yet, at most stdinWindow.
type inputQueue struct {
	mu      sync.Mutex
	buf     []byte
	taken   int  // bytes that drain is writing
	eof     bool // the client's end of input
	stopped bool
	wake    chan struct{} // capacity 1
}

func newInputQueue() *inputQueue { return &inputQueue{wake: make(chan struct{}, 1)} }

// put adds bytes, or with none the end of input. It reports false when the
// client sent more than it may.
func (q *inputQueue) put(p []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.buf)+q.taken+len(p) > stdinWindow {
		return false
	}
	if len(p) == 0 {
		q.eof = true
	} else if !q.eof {
		q.buf = append(q.buf, p...)
	}
	q.signal()
	return true
}

// stop ends drain.
func (q *inputQueue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
	q.signal()
}

func (q *inputQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// drain writes to the command what was put, reports it as taken, and closes
// the input at its end or when the command no longer reads. It returns after
// stop, which the caller follows by closing w where a write may be waiting.
func (q *inputQueue) drain(w io.WriteCloser, out *frameWriter) {
	open := true
	closeInput := func() {
		if open {
			open = false
			w.Close()
		}
	}
	for range q.wake {
		for {
			p, eof, stopped := q.take()
			if stopped {
				return
			}
			if len(p) == 0 {
				if eof {
					closeInput()
				}
				break
			}
			if open {
				if _, err := w.Write(p); err != nil {
					closeInput()
				}
			}
			var n [4]byte
			binary.BigEndian.PutUint32(n[:], uint32(len(p)))
			q.done()
			// A client that is gone is noticed by the reading side.
			out.write(frameWindow, n[:])
		}
	}
}

func (q *inputQueue) take() (p []byte, eof, stopped bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p, q.buf = q.buf, nil
	q.taken = len(p)
	return p, q.eof, q.stopped
}

func (q *inputQueue) done() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.taken = 0
}
