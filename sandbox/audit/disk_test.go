package audit

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"outcall/policy"
)

// A disk that hangs holds a verdict up once, for MaxWait.
func TestSlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{block: make(chan struct{})}
		w := newWriter(Options{}, m)
		start := time.Now()
		for range 100 {
			w.Record(allow("a.test"))
		}
		if d := time.Since(start); d > MaxWait {
			t.Errorf("100 records took %v, at most %v", d, MaxWait)
		}
		big := allow("a.test")
		big.Process = &policy.Process{Args: []string{strings.Repeat("\x01", policy.MaxArgs)}}
		for range 20 {
			for range MaxClass {
				w.Record(big)
			}
			time.Sleep(time.Second)
		}
		w.mu.Lock()
		if n := len(w.pending); n > maxPending+MaxLine {
			t.Errorf("%d bytes wait, at most %d", n, maxPending)
		}
		w.mu.Unlock()
		close(m.block)
		synctest.Wait()
		w.Record(deny("after.test"))
		w.Close()
		es := m.events(t)
		if n := total(es, "dns"); n != 100+20*MaxClass+1 {
			t.Errorf("the counts add up to %d, want %d", n, 100+20*MaxClass+1)
		}
		m.verify(t, w.Head())
	})
}

// A full disk costs no line and leaves no half of one; it is told once.
func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := 0
		m := &memory{fail: unix.ENOSPC, part: 10}
		w := newWriter(Options{Report: func(err error) {
			told++
			if err != nil && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EIO) {
				t.Errorf("reported %v", err)
			}
		}}, m)
		w.Record(allow("a.test"))
		w.Record(allow("b.test"))
		synctest.Wait()
		if m.size() != 0 || w.Err() == nil {
			t.Errorf("%d bytes, error %v", m.size(), w.Err())
		}
		time.Sleep(3 * retryTime)
		m.mu.Lock()
		m.fail = nil
		m.mu.Unlock()
		time.Sleep(2 * retryTime)
		synctest.Wait()
		if es := m.events(t); len(es) != 2 || told != 2 || w.Err() != nil {
			t.Errorf("%d lines, told %d times, error %v", len(es), told, w.Err())
		}
		m.mu.Lock()
		m.fail = unix.EIO
		m.mu.Unlock()
		w.Record(allow("c.test"))
		if err := w.Close(); !errors.Is(err, unix.EIO) {
			t.Errorf("Close: %v, want EIO", err)
		}
	})
}

// Record has waited for the disk's answer: who asks behind it knows whether the
// line stands. That the disk refuses is told once, and so is its mend.
func TestRefusalIsKnownBehindRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		var told []string
		w := newWriter(Options{Report: func(err error) { told = append(told, fmt.Sprint(err)) }}, m)
		defer w.Close()
		w.Record(allow("a.test"))
		if err := w.Err(); err != nil {
			t.Error(err)
		}
		for _, e := range []policy.Event{allow("b.test"), {Event: "start"}} {
			m.mu.Lock()
			m.fail = unix.ENOSPC
			m.mu.Unlock()
			w.Record(e)
			if err := w.Err(); !errors.Is(err, unix.ENOSPC) {
				t.Errorf("%s: %v", e.Event, err)
			}
			time.Sleep(5 * retryTime)
			m.mu.Lock()
			m.fail = nil
			m.mu.Unlock()
			time.Sleep(2 * retryTime)
			if err := w.Err(); err != nil {
				t.Error(err)
			}
		}
		if len(told) != 4 || told[1] != "<nil>" || told[3] != "<nil>" {
			t.Errorf("told %q", told)
		}
		if es := m.events(t); len(es) != 3 {
			t.Errorf("%d lines", len(es))
		}
	})
}

// A disk that hangs is one that refuses, from MaxHang on.
func TestHungDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{block: make(chan struct{})}
		var mu sync.Mutex
		var all []string
		w := newWriter(Options{Report: func(err error) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, fmt.Sprint(err))
		}}, m)
		said := func() []string {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(all)
		}
		w.Record(allow("a.test"))
		time.Sleep(MaxHang - MaxWait - time.Millisecond)
		if err, told := w.Err(), said(); err != nil || len(told) != 0 {
			t.Errorf("%v, told %q", err, told)
		}
		time.Sleep(time.Second)
		if err, told := w.Err(), said(); !errors.Is(err, ErrHung) || len(told) != 1 {
			t.Errorf("%v, told %q", err, told)
		}
		close(m.block)
		synctest.Wait()
		if err, told := w.Err(), said(); err != nil || len(told) != 2 || told[1] != "<nil>" {
			t.Errorf("%v, told %q", err, told)
		}
		w.Close()
	})
}
