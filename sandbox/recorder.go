package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"outcall/policy"
	"outcall/sandbox/audit"
)

// A recorder is the audit of one session as the rest of the supervisor uses
// it.
type recorder struct {
	w    *audit.Writer
	seen func(policy.Event)
}

// Record implements netstack.Auditor.
func (r *recorder) Record(e policy.Event) {
	r.w.Record(e)
	r.seen(e)
}

// Err implements netstack.Auditor.
func (r *recorder) Err() error { return r.w.Err() }

// maxLine bounds one line of the audit as it is read back.
const maxLine = 64 << 10

// events gives the lines that were written, and with follow those to come. A
// follower begins before the file is read, so no line is lost between.
func (r *recorder) events(ctx context.Context, follow bool, emit func([]byte) error) error {
	var f *audit.Follower
	if follow {
		var err error
		if f, err = r.w.Follow(); err != nil {
			return err
		}
		defer f.Close()
	}
	last, err := r.history(emit)
	if err != nil || !follow {
		return err
	}
	// What had been written when following ends is still told.
	defer context.AfterFunc(ctx, f.Close)()
	for line := range f.C {
		line = bytes.TrimSuffix(line, []byte("\n"))
		if e, err := audit.Decode(line); err == nil && e.Seq != 0 && e.Seq <= last {
			continue // it was in the file
		}
		if err := emit(line); err != nil {
			return err
		}
	}
	return nil
}

// history emits the lines of the file and returns the last seq.
func (r *recorder) history(emit func([]byte) error) (last uint64, err error) {
	f, err := os.Open(r.w.Path())
	if err != nil {
		return 0, fmt.Errorf("read the audit: %w", err)
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, maxLine)
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return last, nil // a line being written comes by the follower
		}
		if err != nil {
			return last, fmt.Errorf("read the audit: %w", err)
		}
		line = line[:len(line)-1]
		if e, err := audit.Decode(line); err == nil {
			last = max(last, e.Seq)
		}
		if err := emit(line); err != nil {
			return last, err
		}
	}
}
