package hostapi

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"
)

// events sends audit lines until they end or, with follow=true, until the
// client goes or the session's record ends: one a line, or as server-sent events to a
// client that accepts text/event-stream.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	follow, err := flag(r, "follow")
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	rc := http.NewResponseController(w)
	begun := false
	content, before, after := "application/x-ndjson", "", "\n"
	if acceptsEventStream(r) {
		content, before, after = "text/event-stream", "data: ", "\n\n"
	}
	begin := func() {
		if !begun {
			begun = true
			w.Header().Set("Content-Type", content)
			w.WriteHeader(http.StatusOK)
		}
	}
	if follow {
		begin()
		rc.Flush()
	}
	err = s.backend.Events(r.Context(), follow, func(line []byte) error {
		begin()
		if _, err := fmt.Fprintf(w, "%s%s%s", before, line, after); err != nil {
			return err
		}
		if follow {
			return rc.Flush()
		}
		return nil
	})
	if err != nil && !begun {
		fail(w, statusOf(err, http.StatusInternalServerError), err.Error())
		return
	}
	begin()
}

func acceptsEventStream(r *http.Request) bool {
	for a := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		if kind, _, err := mime.ParseMediaType(a); err == nil && kind == "text/event-stream" {
			return true
		}
	}
	return false
}

// Times of the streams.
const (
	hangupGrace = 2 * time.Second // between SIGHUP and SIGKILL
	drainGrace  = time.Second     // for output of a command that has ended
	closeGrace  = time.Second     // for the last frames and lines when the session ends
)

// exec starts a command and, after 101, carries its streams.
func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	var req ExecRequest
	if err := decode(r.Body, &req); err != nil {
		fail(w, statusOf(err, http.StatusBadRequest), err.Error())
		return
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), Upgrade) {
		w.Header().Set("Upgrade", Upgrade)
		fail(w, http.StatusUpgradeRequired, "exec needs Upgrade: "+Upgrade)
		return
	}
	if len(req.Command) == 0 || req.Command[0] == "" || req.Where != InAgent && req.Where != InGateway {
		fail(w, http.StatusBadRequest, `exec needs a command, and where: "agent" or "gateway"`)
		return
	}
	p, err := s.backend.Exec(r.Context(), req)
	if err != nil {
		reply(w, statusOf(err, http.StatusInternalServerError), execFailure(err))
		return
	}
	s.execs.Add(1)
	defer s.execs.Done()
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		kill(p)
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	defer c.Close()
	c.SetDeadline(time.Time{})
	rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + Upgrade + "\r\n\r\n")
	if rw.Flush() != nil {
		kill(p)
		return
	}
	s.carry(c, rw.Reader, p)
}

// carry serves one exec until the command has ended and its output is sent,
// or the client has gone.
func (s *Server) carry(c net.Conn, in *bufio.Reader, p *Process) {
	// A client may stop reading for as long as it likes (Ctrl-S); that holds
	// the command back, but not the end of the session.
	defer context.AfterFunc(s.base, func() { c.SetWriteDeadline(time.Now().Add(closeGrace)) })()
	out := &frameWriter{w: c}
	gone := make(chan struct{})
	q := newInputQueue()
	go func() { // ends when c is closed below
		defer close(gone)
		feed(in, p, q)
	}()
	var outputs, input sync.WaitGroup
	input.Go(func() { q.drain(p.Stdin, out) })
	for typ, r := range map[byte]io.ReadCloser{frameStdout: p.Stdout, frameStderr: p.Stderr} {
		if r == nil {
			continue
		}
		outputs.Go(func() {
			if _, err := io.CopyBuffer(struct{ io.Writer }{out.stream(typ)}, struct{ io.Reader }{r}, make([]byte, 32<<10)); err != nil {
				c.Close() // the client is gone: feed ends, and with it the command
			}
		})
	}
	drained := make(chan struct{})
	go func() { outputs.Wait(); close(drained) }()

	select {
	case <-p.Done:
		// Descendants in the background may hold the output open for ever.
		select {
		case <-drained:
		case <-time.After(drainGrace):
		}
		out.write(frameExit, []byte{ExitCode(p.Status())})
	case <-gone:
		kill(p)
	case <-s.base.Done():
		kill(p)
	}
	p.close()
	c.Close()
	q.stop()
	<-gone
	<-drained
	input.Wait()
}

// feed carries the client's frames to the command until the client ends or
// breaks the protocol.
func feed(in io.Reader, p *Process, q *inputQueue) {
	fr := &frameReader{r: in}
	for {
		f, err := fr.next()
		if err != nil {
			return
		}
		switch f.typ {
		case frameStdin:
			if !q.put(f.payload) {
				return
			}
		case frameResize:
			p.Resize(be16(f.payload), be16(f.payload[2:]))
		case frameSignal:
			p.Signal(syscall.Signal(f.payload[0]))
		default:
			return // a client never sends the server's frames
		}
	}
}

func be16(b []byte) uint16 { return uint16(b[0])<<8 | uint16(b[1]) }

// kill ends a command whose client has gone.
func kill(p *Process) {
	p.Signal(syscall.SIGHUP)
	p.close() // hangs a terminal up; nobody is left to read the output
	select {
	case <-p.Done:
	case <-time.After(hangupGrace):
		p.Signal(syscall.SIGKILL)
	}
}

// ExitCode is the code that a shell reports for a wait status.
func ExitCode(ws syscall.WaitStatus) byte {
	if ws.Signaled() {
		return byte(128 + int(ws.Signal()))
	}
	return byte(ws.ExitStatus())
}

// execFailure tells a command that cannot be started from other failures by
// a code: 127 not found, 126 not executable.
func execFailure(err error) envelope {
	e := envelope{Error: err.Error()}
	if code := StartCode(err); code != 0 {
		e.Data = json.RawMessage(`{"code":` + map[int]string{126: "126", 127: "127"}[code] + `}`)
	}
	return e
}
