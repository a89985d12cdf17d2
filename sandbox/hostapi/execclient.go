package hostapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"syscall"
)

// Streams are the caller's ends of an exec. Resize and Signals may be nil.
type Streams struct {
	Stdin          io.Reader // nil: no input
	Stdout, Stderr io.Writer
	Resize         <-chan [2]uint16 // rows, columns
	Signals        <-chan syscall.Signal
}

// Exec runs a command in the session and returns its exit code (128+n for a
// signal). A refusal is a *StatusError. When ctx ends the connection is
// closed, which ends the command. A read of Stdin that does not return is
// left behind: nothing can interrupt it.
func (c *Client) Exec(ctx context.Context, r ExecRequest, st Streams) (int, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	in, err := c.upgrade(conn, r)
	if err != nil {
		return 0, err
	}
	done := make(chan struct{})
	defer close(done)
	out := &frameWriter{w: conn}
	win := newWindow()
	defer win.close()
	go sendInput(out, win, st.Stdin)
	go sendControl(out, done, st)
	return receive(in, win, st)
}

// upgrade sends the request and reads the answer up to the first frame.
func (c *Client) upgrade(conn io.ReadWriter, r ExecRequest) (io.Reader, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest(http.MethodPost, "http://outcall"+prefix+"/exec", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", Upgrade)
	req.Header.Set("Content-Type", "application/json")
	if err := req.Write(conn); err != nil {
		return nil, c.plain(err)
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, req)
	if err != nil {
		return nil, c.plain(fmt.Errorf("exec: %w", err))
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		if err := new(answer).read(resp); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("exec: status %d instead of an upgrade", resp.StatusCode)
	}
	return br, nil
}

// errNoExit is a stream that ended without the command's exit.
var errNoExit = errors.New("the session ended before the command did")

// receive carries the server's frames until the command's exit.
func receive(in io.Reader, win *window, st Streams) (int, error) {
	fr := &frameReader{r: in}
	for {
		f, err := fr.next()
		if err != nil {
			return 0, fmt.Errorf("exec: %w: %w", errNoExit, err)
		}
		switch f.typ {
		case frameStdout:
			// A reader that is gone (`| head`) ends the exec, as SIGPIPE would.
			if _, err := st.Stdout.Write(f.payload); err != nil {
				return 0, fmt.Errorf("write the command's output: %w", err)
			}
		case frameStderr:
			if _, err := st.Stderr.Write(f.payload); err != nil {
				return 0, fmt.Errorf("write the command's errors: %w", err)
			}
		case frameWindow:
			win.add(int(binary.BigEndian.Uint32(f.payload)))
		case frameExit:
			return int(f.payload[0]), nil
		default:
			return 0, fmt.Errorf("exec: the server sent frame type %d", f.typ)
		}
	}
}

// sendInput carries stdin within the window; errors are the receiver's to
// notice.
func sendInput(out *frameWriter, win *window, stdin io.Reader) {
	buf := make([]byte, 32<<10)
	for stdin != nil {
		n, err := stdin.Read(buf)
		if n > 0 {
			if !win.take(n) || out.write(frameStdin, buf[:n]) != nil {
				return
			}
		}
		if err != nil {
			break
		}
	}
	out.write(frameStdin, nil)
}

func sendControl(out *frameWriter, done <-chan struct{}, st Streams) {
	for {
		var err error
		select {
		case <-done:
			return
		case s := <-st.Resize:
			p := binary.BigEndian.AppendUint16(nil, s[0])
			err = out.write(frameResize, binary.BigEndian.AppendUint16(p, s[1]))
		case s := <-st.Signals:
			err = out.write(frameSignal, []byte{byte(s)})
		}
		if err != nil {
			return
		}
	}
}

// A window counts the stdin bytes that may still be sent.
type window struct {
	mu     sync.Mutex
	cond   sync.Cond
	free   int
	closed bool
}

func newWindow() *window {
	w := &window{free: stdinWindow}
	w.cond.L = &w.mu
	return w
}

// take waits for n bytes of room; false means closed.
func (w *window) take(n int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.free < n && !w.closed {
		w.cond.Wait()
	}
	w.free -= n
	return !w.closed
}

func (w *window) add(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.free = min(w.free+n, stdinWindow)
	w.cond.Broadcast()
}

func (w *window) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.cond.Broadcast()
}
