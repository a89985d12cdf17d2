package hostapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"outcall/sandbox/pcap"
)

// A capture is sent as a pcap file, so that any client of the socket can write
// it down. What a file has no place for comes in trailers after its last
// frame: why the capture ended, and how many frames the kernel had no room
// for. A client that hangs up first does not see them.
const (
	trailerDropped = "X-Outcall-Dropped"
	trailerError   = "X-Outcall-Error"
)

// captureStall ends a capture whose client takes nothing for so long: it
// holds one of few places.
const captureStall = 30 * time.Second

// capture sends the bridge's frames until the client goes, count=N frames are
// sent, or the session ends.
func (s *Server) capture(w http.ResponseWriter, r *http.Request) {
	count, err := countOf(r)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	rc := http.NewResponseController(w)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	out := &captureStream{w: w, rc: rc, left: count, full: cancel}
	dropped, err := s.backend.Capture(ctx, out.begin, out.emit)
	if err != nil && out.pcap == nil {
		fail(w, statusOf(err, http.StatusInternalServerError), err.Error())
		return
	}
	w.Header().Set(trailerDropped, strconv.FormatUint(dropped, 10))
	if err != nil {
		w.Header().Set(trailerError, err.Error())
	}
}

// countOf reads ?count=N; 0 is no limit.
func countOf(r *http.Request) (uint64, error) {
	v := r.URL.Query().Get("count")
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(v, 10, 32)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("count=%q: want a number above 0", v)
	}
	return n, nil
}

// A captureStream is the body of one capture.
type captureStream struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	pcap *pcap.Writer
	left uint64 // frames to go; 0: no limit
	full func() // ends the capture
}

// begin writes the head and the file's header; a refusal before it has a
// status of its own.
func (c *captureStream) begin() (err error) {
	h := c.w.Header()
	h.Set("Content-Type", "application/vnd.tcpdump.pcap")
	h.Set("Trailer", trailerDropped+", "+trailerError)
	c.w.WriteHeader(http.StatusOK)
	if c.pcap, err = pcap.NewWriter(c.w); err != nil {
		return err
	}
	return c.rc.Flush()
}

func (c *captureStream) emit(f pcap.Frame) error {
	// What cannot be set is a connection that has gone: the write says so.
	_ = c.rc.SetWriteDeadline(time.Now().Add(captureStall))
	if err := c.pcap.Write(f); err != nil {
		return err
	}
	if c.left > 0 {
		if c.left--; c.left == 0 {
			c.full()
		}
	}
	return c.rc.Flush()
}

// Capture calls emit with each frame on the bridge, valid until emit returns,
// until count frames have come (0: no limit), the session ends, or ctx does,
// which is no error. It tells how many frames the kernel had no room for, as
// far as the session could say so.
func (c *Client) Capture(ctx context.Context, count uint64, begun func(), emit func(pcap.Frame) error) (dropped uint64, err error) {
	path := "/bridge/capture"
	if count > 0 {
		path += "?count=" + strconv.FormatUint(count, 10)
	}
	resp, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, new(answer).read(resp)
	}
	in, err := pcap.NewReader(resp.Body)
	if err != nil {
		return 0, err
	}
	begun()
	for {
		f, err := in.Next()
		if err == nil {
			err = emit(f)
		}
		switch {
		case err == nil:
			continue
		case ctx.Err() != nil:
			return 0, nil
		case !errors.Is(err, io.EOF):
			return 0, err
		}
		// A server that says nothing of drops has been cut off.
		dropped, err = strconv.ParseUint(resp.Trailer.Get(trailerDropped), 10, 64)
		if text := resp.Trailer.Get(trailerError); text != "" {
			return dropped, errors.New(text)
		}
		if err != nil {
			return 0, &UnreachableError{c.path, errors.New("it closed the connection")}
		}
		return dropped, nil
	}
}
