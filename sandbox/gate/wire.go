package gate

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"outcall/policy"
)

// Limits of the protocol. The agent never speaks it; they bound mistakes.
const (
	// maxMessage is one packet. What can be longer (arguments, environment,
	// the view) travels as a document.
	maxMessage = 64 << 10
	// maxDoc is one document. The kernel takes 6 MiB of arguments and
	// environment at most (execve(2)), JSON escapes some of them.
	maxDoc = 64 << 20
	// maxFDs are the descriptors beside one message.
	maxFDs = 8
)

// A message is one packet in either direction. Which fields are set follows
// from Op; the drawing is in the package's documentation.
type message struct {
	Op string `json:"op"`
	ID uint64 `json:"id,omitempty"` // of the request; its reply has the same

	Where      Where   `json:"where,omitempty"`
	Domain     int     `json:"domain,omitempty"`
	Type       int     `json:"type,omitempty"`
	Proto      int     `json:"proto,omitempty"`
	TTY        bool    `json:"tty,omitempty"`
	Rows       uint16  `json:"rows,omitempty"`
	Cols       uint16  `json:"cols,omitempty"`
	Has        [3]bool `json:"has,omitzero"` // which of descriptors 0-2 come along
	Proc       uint64  `json:"proc,omitempty"`
	Signal     int     `json:"signal,omitempty"`
	Inode      uint64  `json:"inode,omitempty"`
	WaitStatus uint32  `json:"wait_status,omitempty"`

	Process *policy.Process `json:"process,omitempty"`
	Info    *Info           `json:"info,omitempty"`
	Err     *StageError     `json:"err,omitempty"`
}

// Words of Op.
const (
	opSocket  = "socket"
	opSpawn   = "spawn"
	opSignal  = "signal"
	opWho     = "who"
	opReply   = "reply"
	opLinked  = "linked"  // gatekeeper: the links stand; sockets can be had
	opStarted = "started" // gatekeeper: everything stands, or Err
	opConfig  = "config"  // a document for a stage
	opMapped  = "mapped"  // the ids of a waiting stage are mapped
	opReady   = "ready"   // a stage has done its work, or Err
	opView    = "view"    // init: the view stands; the agent's listener and README.md come along
	opExit    = "exit"    // a process has ended
	opStop    = "stop"    // a process with a terminal was stopped
)

// A conn is one end of a SOCK_SEQPACKET pair. send is safe for concurrent
// use; recv has one caller. Descriptors that are received are close-on-exec
// and belong to the caller.
type conn struct {
	fd   int
	wmu  sync.Mutex // one message at a time
	fdmu sync.Mutex // shutdown against close; never held while anything waits
	once sync.Once
	buf  []byte // recv's
}

// connPair makes both ends, close-on-exec.
func connPair() (a, b *conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a control socket: %w", err)
	}
	return &conn{fd: fds[0]}, &conn{fd: fds[1]}, nil
}

func (c *conn) send(m *message, fds ...int) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode %s: %w", m.Op, err)
	}
	if len(b) > maxMessage {
		return fmt.Errorf("encode %s: %d bytes, at most %d", m.Op, len(b), maxMessage)
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	for {
		err = unix.Sendmsg(c.fd, b, oob, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("send %s: %w", m.Op, err)
	}
	return nil
}

// recv waits for one message. io.EOF means that the other end is gone.
func (c *conn) recv() (*message, []int, error) {
	if c.buf == nil {
		c.buf = make([]byte, maxMessage)
	}
	buf := c.buf
	oob := make([]byte, unix.CmsgSpace(4*maxFDs))
	var n, oobn, flags int
	var err error
	for {
		n, oobn, flags, _, err = unix.Recvmsg(c.fd, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if errors.Is(err, unix.ECONNRESET) {
		return nil, nil, io.EOF
	}
	if err != nil {
		return nil, nil, fmt.Errorf("receive: %w", err)
	}
	fds, err := rights(oob[:oobn])
	if err != nil {
		return nil, nil, err
	}
	if n == 0 && oobn == 0 {
		return nil, nil, io.EOF
	}
	m := new(message)
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("receive: a message was cut off")
	} else if err = json.Unmarshal(buf[:n], m); err != nil {
		err = fmt.Errorf("receive: %w", err)
	}
	if err != nil {
		closeAll(fds)
		return nil, nil, err
	}
	return m, fds, nil
}

func rights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("receive descriptors: %w", err)
	}
	var fds []int
	for i := range msgs {
		got, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			closeAll(fds)
			return nil, fmt.Errorf("receive descriptors: %w", err)
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

// shutdown wakes both ends' readers with EOF; close gives the descriptor back
// and must not run while another goroutine is in recv.
func (c *conn) shutdown() {
	c.fdmu.Lock()
	defer c.fdmu.Unlock()
	_ = unix.Shutdown(c.fd, unix.SHUT_RDWR)
}

func (c *conn) close() {
	c.once.Do(func() {
		c.wmu.Lock()
		defer c.wmu.Unlock()
		c.fdmu.Lock()
		defer c.fdmu.Unlock()
		unix.Close(c.fd)
		c.buf = nil
		c.fd = -1 // a late send must not reach who gets the number next
	})
}

func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// sendDoc sends m with a document of any length: a memory file goes along as
// the first descriptor. It is a gob and not JSON, which cannot hold paths and
// arguments that are no UTF-8.
func (c *conn) sendDoc(m *message, doc any, fds ...int) error {
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(doc); err != nil {
		return fmt.Errorf("encode %s: %w", m.Op, err)
	}
	if b.Len() > maxDoc {
		return fmt.Errorf("encode %s: %d bytes, at most %d", m.Op, b.Len(), maxDoc)
	}
	fd, err := unix.MemfdCreate("outcall", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make a memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "document")
	defer f.Close()
	if _, err := f.Write(b.Bytes()); err != nil {
		return fmt.Errorf("write a memory file: %w", err)
	}
	return c.send(m, append([]int{fd}, fds...)...)
}

// readDoc reads and closes a document.
func readDoc(fd int, into any) error {
	f := os.NewFile(uintptr(fd), "document")
	defer f.Close()
	if err := gob.NewDecoder(io.NewSectionReader(f, 0, maxDoc)).Decode(into); err != nil {
		return fmt.Errorf("read a document: %w", err)
	}
	return nil
}

// recvDoc waits for one message of kind op that carries a document.
func (c *conn) recvDoc(op string, into any) error {
	m, fds, err := c.recv()
	if err != nil {
		return err
	}
	if m.Op != op || len(fds) != 1 {
		closeAll(fds)
		return fmt.Errorf("receive: %q with %d descriptors where %q with 1 was due", m.Op, len(fds), op)
	}
	return readDoc(fds[0], into)
}
