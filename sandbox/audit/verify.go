package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"outcall/policy"
)

// Verify reads a record and returns the number of the first line that does
// not fit, from 1 on, and why: it is no event, its prev is not the hash of the
// line before, or its seq leaves events out. With head, the last line must
// have that hash; if it has not, the line after it is the first that is
// missing. 0 and nil say that all fits. A record without lines fits nothing
// but an empty head or Genesis. A read error has line 0.
func Verify(r io.Reader, head string) (firstBadLine int, err error) {
	prev, seq, n := Genesis, uint64(0), 0
	lines := newLines(r)
	for {
		line, err := lines.next()
		if err == io.EOF {
			break
		}
		n++
		if err != nil && !isLineError(err) {
			return 0, err
		}
		if err == nil {
			seq, err = fits(line, prev, seq)
		}
		if err != nil {
			return n, fmt.Errorf("line %d: %w", n, err)
		}
		sum := sha256.Sum256(line)
		prev = hex.EncodeToString(sum[:])
	}
	if head != "" && head != prev {
		return n + 1, fmt.Errorf("line %d: the record ends before it: its head is %s, not %s", n+1, prev, head)
	}
	return 0, nil
}

// fits checks one line against the one before and returns its seq.
func fits(line []byte, prev string, seq uint64) (uint64, error) {
	e, err := Decode(line)
	if err != nil {
		return 0, err
	}
	if e.Prev != prev {
		return 0, errors.New("its prev is not the hash of the line before it")
	}
	if want := seq + weight(&e); e.Seq != want {
		return 0, fmt.Errorf("its seq is %d, want %d", e.Seq, want)
	}
	return e.Seq, nil
}

// Decode reads one line.
func Decode(line []byte) (policy.Event, error) {
	var e policy.Event
	if err := json.Unmarshal(line, &e); err != nil {
		return e, fmt.Errorf("it is no event: %w", err)
	}
	if e.Event == "" {
		return e, errors.New("it is no event")
	}
	return e, nil
}

// Read calls f for each line of a record with its event. It stops at the first
// error: f's own, or one with the line's number.
func Read(r io.Reader, f func(line []byte, e policy.Event) error) error {
	lines := newLines(r)
	for n := 1; ; n++ {
		line, err := lines.next()
		if err == io.EOF {
			return nil
		}
		var e policy.Event
		if err == nil {
			e, err = Decode(line)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if err := f(line, e); err != nil {
			return err
		}
	}
}

var (
	errLong  = fmt.Errorf("it is longer than %d bytes", MaxLine)
	errNoEnd = errors.New("it has no end")
)

func isLineError(err error) bool { return errors.Is(err, errLong) || errors.Is(err, errNoEnd) }

// lines reads bounded lines, each with its newline.
type lines struct{ r *bufio.Reader }

func newLines(r io.Reader) lines { return lines{bufio.NewReaderSize(r, MaxLine)} }

func (l lines) next() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	switch {
	case err == nil:
		return bytes.Clone(line), nil
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, errLong
	case err == io.EOF && len(line) > 0:
		return nil, errNoEnd
	}
	return nil, err
}
