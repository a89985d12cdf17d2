package hostapi

import (
	"errors"
	"strings"
	"testing"

	"outcall/sandbox/pcap"
)

// A capture ends by its count, by the bridge, or is refused; each end says so.
func TestCapture(t *testing.T) {
	b := &fakeBackend{}
	_, path := serve(t, b)
	c := NewClient(path)
	for _, tt := range []struct {
		count, frames uint64
		refusal, want string
	}{
		{0, 3, "", "the bridge went down"},
		{2, 3, "", "the bridge went down"}, // this backend does not look at its context
		{0, 0, "no packet socket: operation not permitted", "no packet socket: operation not permitted"},
	} {
		if b.err = nil; tt.refusal != "" {
			b.err = errors.New(tt.refusal)
		}
		var n uint64
		begun := false
		dropped, err := c.Capture(t.Context(), tt.count, func() { begun = true }, func(f pcap.Frame) error {
			if f.Length != 20 || len(f.Data) != 20 || f.Data[0] != byte(n) || f.Time.Nanosecond() != 5 {
				t.Errorf("frame %d: %+v", n, f)
			}
			n++
			return nil
		})
		if err == nil || !strings.Contains(err.Error(), tt.want) || n != tt.frames {
			t.Errorf("%+v: %d frames, %v", tt, n, err)
		}
		if begun != (tt.refusal == "") || begun && dropped != 2 {
			t.Errorf("%+v: begun %v, dropped %d", tt, begun, dropped)
		}
	}
	if r, err := plainHTTP(path).Get("http://outcall/api/v1/bridge/capture?count=-1"); err != nil || r.StatusCode != 400 {
		t.Errorf("count=-1: %v %v", r, err)
	}
}
