package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"outcall/policy"
	"outcall/sandbox/audit"
)

// A follower is told each line once and in order, also those that were written
// just before the session's end and that it had no time for.
func TestFollowedToTheEnd(t *testing.T) {
	for range 20 {
		w, err := audit.Open(audit.Options{Path: filepath.Join(t.TempDir(), "audit.jsonl"), Session: "s", Agent: "s"})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		r := &recorder{w: w, seen: func(policy.Event) {}}
		ctx, end := context.WithCancel(t.Context())
		defer end()
		say := func(n int) { r.Record(policy.Event{Event: "policy", Reason: fmt.Sprint("line ", n)}) }
		say(0)
		const lines = 30 // fewer than the audit counts instead
		var got []string
		err = r.events(ctx, true, func(line []byte) error {
			if len(got) == 0 {
				for n := 1; n < lines; n++ {
					say(n)
				}
				end()
			}
			e, err := audit.Decode(bytes.Clone(line))
			got = append(got, e.Reason)
			return err
		})
		if err != nil || len(got) != lines {
			t.Fatalf("%d lines of %d were told: %v", len(got), lines, err)
		}
		for n, text := range got {
			if text != fmt.Sprint("line ", n) {
				t.Fatalf("line %d is %q", n, text)
			}
		}
		gone := errors.New("the client has gone")
		if err := r.events(t.Context(), true, func([]byte) error { return gone }); !errors.Is(err, gone) {
			t.Fatalf("a client that has gone: %v", err)
		}
	}
}
