package netstack

import (
	"bytes"
	"io"
	"testing"
)

// However many directions are busy, no more than the bound hold large buffers,
// and those without one go on with less. Little takes little.
func TestLargeBuffersAreBounded(t *testing.T) {
	l := newLender(2)
	a, b, c := l.take(largeBuffer), l.take(2*largeBuffer), l.take(largeBuffer)
	d, e := l.take(middleBuffer), l.take(1)
	for i, want := range []int{largeBuffer, largeBuffer, middleBuffer, middleBuffer, smallBuffer} {
		if got := len(*[]*[]byte{a, b, c, d, e}[i]); got != want {
			t.Errorf("buffer %d has %d octets, not %d", i, got, want)
		}
	}
	l.giveBack(c)
	l.giveBack(d)
	l.giveBack(e)
	if d := l.take(largeBuffer); len(*d) != middleBuffer {
		t.Errorf("a smaller buffer freed a large one")
	}
	l.giveBack(a)
	if d := l.take(largeBuffer); len(*d) != largeBuffer {
		t.Errorf("a large buffer that was given back is not lent again")
	}
}

// pieces is a source of which the given pieces arrive one after the other.
// Waiting for one while a buffer is out is what must not be.
type pieces struct {
	t     *testing.T
	l     *lender
	next  [][]byte
	there []byte
	still bool // nothing may wait now
}

func (a *pieces) Ready() int { return len(a.there) }

func (a *pieces) Wait() (int, error) {
	if len(a.there) > 0 {
		return len(a.there), nil
	}
	if a.still {
		a.t.Error("a read waited for what was announced, or with octets in its hand")
	}
	if len(a.l.large) != 0 {
		a.t.Error("a large buffer is held while nothing is there")
	}
	if len(a.next) == 0 {
		return 0, io.EOF
	}
	a.there, a.next = a.next[0], a.next[1:]
	return len(a.there), nil
}

func (a *pieces) Read(b []byte) (int, error) {
	if len(a.there) == 0 {
		if _, err := a.Wait(); err != nil {
			return 0, err
		}
	}
	n := copy(b, a.there)
	a.there = a.there[n:]
	return n, nil
}

// A stream crosses whole with whichever buffer it gets, and gives it back.
func TestPumpGivesItsBufferBack(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 3*largeBuffer/16)
	for _, n := range []int{0, 1} {
		f := &flow{lender: newLender(n)}
		var dst bytes.Buffer
		src := &pieces{t: t, l: f.lender, next: [][]byte{data[:1], data[1 : 2*largeBuffer], data[2*largeBuffer:]}}
		if err := f.pump(&dst, src, &f.in, nil); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(dst.Bytes(), data) || f.in.Load() != int64(len(data)) {
			t.Errorf("with %d large buffers: %d of %d octets crossed, %d counted", n, dst.Len(), len(data), f.in.Load())
		}
		if len(f.large) != 0 {
			t.Errorf("a buffer was kept")
		}
	}
}
