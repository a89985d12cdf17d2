package audit

import (
	"bytes"
	"errors"
)

const (
	// MaxFollowers bounds who can follow a record at a time.
	MaxFollowers = 16
	// followLines is how far a follower may fall behind.
	followLines = 1024
)

// ErrFollowers says that MaxFollowers follow already.
var ErrFollowers = errors.New("audit: too many followers")

// slowNote is the last line of a follower that fell too far behind. It is no
// line of the record: it has no seq.
var slowNote = []byte(`{"event":"limit","reason":"audit: this follower is too slow and was let go; read the file"}` + "\n")

// A Follower gets every line of a record from where the file ends.
type Follower struct {
	// C has one line with its newline each; the lines must not be changed. It is
	// closed at the record's end, by Close, and after a note when the reader
	// fell behind.
	C <-chan []byte

	c chan []byte
	w *Writer
}

// Follow begins to follow. Lines from before are in the file; those that wait
// for a slow disk come first, and may be in the file, too, by the time that it
// is read: seq tells.
func (w *Writer) Follow() (*Follower, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.follow.all) >= MaxFollowers {
		return nil, ErrFollowers
	}
	waiting := append(splitLines(w.flying), splitLines(w.pending)...)
	c := make(chan []byte, len(waiting)+followLines+1) // one more for the note
	for _, line := range waiting {
		c <- line
	}
	f := &Follower{C: c, c: c, w: w}
	if w.closed {
		close(c)
		return f, nil
	}
	w.follow.all[f] = true
	return f, nil
}

// splitLines gives the lines of a batch, to which nothing is written again but
// behind them.
func splitLines(batch []byte) (lines [][]byte) {
	for line := range bytes.Lines(batch) {
		lines = append(lines, line)
	}
	return lines
}

// Close ends following; what C holds can still be read.
func (f *Follower) Close() {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.follow.drop(f)
}

// followers are under the Writer's lock, so they alone fill the channels.
type followers struct{ all map[*Follower]bool }

func (s *followers) init() { s.all = map[*Follower]bool{} }

func (s *followers) send(line []byte) {
	if len(s.all) == 0 {
		return
	}
	line = bytes.Clone(line)
	for f := range s.all {
		if len(f.c) < cap(f.c)-1 {
			f.c <- line
			continue
		}
		f.c <- slowNote
		s.drop(f)
	}
}

func (s *followers) drop(f *Follower) {
	if s.all[f] {
		delete(s.all, f)
		close(f.c)
	}
}

func (s *followers) closeAll() {
	for f := range s.all {
		s.drop(f)
	}
}
