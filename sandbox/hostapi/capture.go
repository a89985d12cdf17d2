package hostapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"outcall/sandbox/pcap"
)

// A capture is sent as a pcap file, so that any client of the socket can write
// it down. What a file has no place for comes in trailers after its last
// frame: why the capture ended, and how many frames the kernel had no room
// for. A client that hangs up first does not see them: so it ends its capture
// by the id that the answer's head tells, and reads to the trailers.
//
//	GET /bridge/capture        200, X-Outcall-Capture: ID, header, frames…
//	DELETE /bridge/capture/ID  200
//	                           …trailers of the first
const (
	headerCapture  = "X-Outcall-Capture"
	trailerDropped = "X-Outcall-Dropped"
	trailerError   = "X-Outcall-Error"
)

// captures are those that run now, by id. There are no more of them than the
// server has connections.
type captures struct {
	mu   sync.Mutex
	next uint64
	ends map[string]context.CancelFunc
}

func (c *captures) add(end context.CancelFunc) (id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ends == nil {
		c.ends = map[string]context.CancelFunc{}
	}
	c.next++
	id = strconv.FormatUint(c.next, 10)
	c.ends[id] = end
	return id
}

// end ends a capture and reports whether there was one.
func (c *captures) end(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	end, ok := c.ends[id]
	delete(c.ends, id)
	if ok {
		end()
	}
	return ok
}

func (s *Server) endCapture(w http.ResponseWriter, r *http.Request) {
	if !s.captures.end(r.PathValue("id")) {
		fail(w, http.StatusNotFound, "no such capture")
		return
	}
	reply(w, http.StatusOK, envelope{OK: true})
}

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
	id := s.captures.add(cancel)
	defer s.captures.end(id)
	w.Header().Set(headerCapture, id)
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
// which is no error: then the frames that are on their way still come. It tells
// how many frames the kernel had no room for.
func (c *Client) Capture(ctx context.Context, count uint64, begun func(), emit func(pcap.Frame) error) (dropped uint64, err error) {
	path := "/bridge/capture"
	if count > 0 {
		path += "?count=" + strconv.FormatUint(count, 10)
	}
	stream, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	defer hangUp()
	early := context.AfterFunc(ctx, hangUp) // there is nothing to lose yet
	resp, err := c.do(stream, http.MethodGet, path, nil)
	if early(); err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, new(answer).read(resp)
	}
	defer context.AfterFunc(ctx, func() {
		end, cancel := context.WithTimeout(stream, captureStall)
		defer cancel()
		if c.Call(end, http.MethodDelete, "/bridge/capture/"+resp.Header.Get(headerCapture), nil, nil) != nil {
			hangUp() // a session that has ended, or is stuck
		}
	})()
	in, err := pcap.NewReader(resp.Body)
	if err != nil {
		return 0, err
	}
	begun()
	for err == nil {
		var f pcap.Frame
		if f, err = in.Next(); err == nil {
			err = emit(f)
		}
	}
	if !errors.Is(err, io.EOF) {
		if stream.Err() != nil {
			return 0, nil
		}
		return 0, err
	}
	// A server that says nothing of drops has been cut off.
	dropped, err = strconv.ParseUint(resp.Trailer.Get(trailerDropped), 10, 64)
	if text := resp.Trailer.Get(trailerError); text != "" {
		return dropped, errors.New(text)
	}
	if err != nil && ctx.Err() == nil {
		return 0, &UnreachableError{c.path, errors.New("it closed the connection")}
	}
	return dropped, nil
}
