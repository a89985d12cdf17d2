package agentapi

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"sync"
	"time"
)

// Rate limits: so many in a sliding window, for the session as a whole.
const (
	CheckCount   = 100
	CheckWindow  = 10 * time.Second
	RuleCount    = 10
	RuleWindow   = 60 * time.Second
	DenialCount  = 20 // each costs some explanations
	DenialWindow = 10 * time.Second
)

var systemRandom io.Reader = rand.Reader

// randomHex returns n random octets in hexadecimal. There is no second source:
// without the first one there is no token.
func randomHex(r io.Reader, n int) (string, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return "", fmt.Errorf("random numbers: %w", err)
	}
	return hex.EncodeToString(b), nil
}

// A window lets count calls through in any span of its length.
type window struct {
	mu   sync.Mutex
	span time.Duration
	last []time.Time // of the latest calls, a ring
	next int
}

func newWindow(count int, span time.Duration) *window {
	return &window{span: span, last: make([]time.Time, count)}
}

// take counts a call. wait is how long to wait before the next one is let
// through; 0 means that this one is.
func (w *window) take(now time.Time) (wait time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	oldest := w.last[w.next]
	if !oldest.IsZero() && now.Sub(oldest) < w.span {
		return oldest.Add(w.span).Sub(now)
	}
	w.last[w.next] = now
	w.next = (w.next + 1) % len(w.last)
	return 0
}
