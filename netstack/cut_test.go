package netstack

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// How a sender ends.
const (
	endWhole = iota
	endFIN   // in the middle
	endReset // in the middle
	ends
)

// How a body is framed.
const (
	byLength = iota
	byChunks
	byEnd // of the connection
	framings
)

var (
	endNames   = []string{"whole", "FIN", "reset"}
	framedWith = []string{"Content-Length", "chunked", "the connection's end"}
)

// sent is one body on its way: pieces of random sizes, at random moments.
type sent struct {
	r       *rand.Rand
	framing int
	end     int
	data    []byte
	pause   int // one piece of so many waits
}

func newSent(r *rand.Rand, framing, end int) *sent {
	s := &sent{r: r, framing: framing, end: end, pause: 1 + r.IntN(20)}
	s.data = make([]byte, 1+r.IntN([]int{10, 5000, 300_000, 3_000_000}[r.IntN(4)]))
	for i := range s.data {
		s.data[i] = byte(i*7>>3) ^ byte(i>>11)
	}
	return s
}

func (s *sent) field() string {
	switch s.framing {
	case byLength:
		return fmt.Sprintf("Content-Length: %d\r\n", len(s.data))
	case byChunks:
		return "Transfer-Encoding: chunked\r\n"
	}
	return "Connection: close\r\n"
}

// wire is the body as it is framed.
func (s *sent) wire() (w []byte) {
	if s.framing != byChunks {
		return s.data
	}
	for rest := s.data; len(rest) > 0; {
		n := min(len(rest), 1+s.r.IntN([]int{3, 3000, 70_000, 2_000_000}[s.r.IntN(4)]))
		w = fmt.Appendf(w, []string{"%x\r\n", "0%X\r\n", "%x;a=b\r\n"}[s.r.IntN(3)], n)
		w, rest = append(append(w, rest[:n]...), crlf...), rest[n:]
	}
	return append(w, []string{"0\r\n\r\n", "0\r\nX-T: 1\r\n\r\n", "000;x\r\n\r\n"}[s.r.IntN(3)]...)
}

// send writes what goes before, and the body up to its end, which it makes.
func (s *sent) send(c cuttable, before string) {
	w := append([]byte(before), s.wire()...)
	if s.end != endWhole {
		w = w[:len(before)+s.r.IntN(len(w)-len(before))]
	}
	for len(w) > 0 {
		n := min(len(w), 1+s.r.IntN([]int{2, 1500, 70_000, 1_000_000}[s.r.IntN(4)]))
		if _, err := c.Write(w[:n]); err != nil {
			return
		}
		w = w[n:]
		if s.r.IntN(s.pause) == 0 {
			time.Sleep(time.Duration(s.r.IntN(1000)) * time.Microsecond)
		}
	}
	switch {
	case s.end == endReset:
		time.Sleep(time.Duration(s.r.IntN(5)) * time.Millisecond)
		c.reset()
	case s.end == endFIN || s.framing == byEnd:
		_ = c.CloseWrite()
	}
}

// check compares what arrived, and how it ended.
func (s *sent) check(got []byte, err error) error {
	if !bytes.HasPrefix(s.data, got) {
		return fmt.Errorf("what arrived, %d octets, is no prefix of the %d that were sent", len(got), len(s.data))
	}
	whole := s.end == endWhole || s.end == endFIN && s.framing == byEnd
	switch {
	case s.end == endWhole && (err != nil || len(got) < len(s.data)):
		return fmt.Errorf("%d of %d octets arrived: %v", len(got), len(s.data), err)
	case !whole && err == nil:
		return fmt.Errorf("%d of %d octets arrived, and looked whole", len(got), len(s.data))
	}
	return nil
}

// A cuttable is an end of a connection.
type cuttable interface {
	net.Conn
	CloseWrite() error
	reset()
}

// over is err, or that the connection was reset: a reset is told once, and the
// end's own flood may have been told. Behind a FIN it is told as another error.
func over(err error, told <-chan error) error {
	if err != nil || told == nil {
		return err
	}
	select {
	case werr := <-told:
		if errors.Is(werr, syscall.ECONNRESET) || errors.Is(werr, errWasReset) {
			return werr
		}
	case <-time.After(50 * time.Millisecond):
	}
	return nil
}

var errWasReset = errors.New("reset")

type serverEnd struct{ *net.TCPConn }

func (c serverEnd) reset() { _ = c.SetLinger(0); _ = c.Close() }

type agentEnd struct {
	*gonet.TCPConn
	ep tcpip.Endpoint
}

func (c agentEnd) reset() { c.ep.Abort() }

// connectEnd is connect with a hand on the endpoint.
func (b *bed) connectEnd(dst netip.AddrPort) agentEnd {
	b.t.Helper()
	addr, p := full(dst)
	var wq waiter.Queue
	ep, terr := b.agent.NewEndpoint(tcp.ProtocolNumber, p, &wq)
	if terr != nil {
		b.t.Fatal(terr)
	}
	entry, up := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	if _, ok := ep.Connect(addr).(*tcpip.ErrConnectStarted); !ok {
		b.t.Fatal("connect")
	}
	select {
	case <-up:
	case <-time.After(patience):
		b.t.Fatal("no answer to a SYN")
	}
	c := agentEnd{gonet.NewTCPConn(&wq, ep), ep}
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	b.t.Cleanup(func() { c.Close() })
	return c
}

// lazily reads with rests.
type lazily struct {
	io.Reader
	every int
	n     int
}

func (l *lazily) Read(b []byte) (int, error) {
	if l.n++; l.every > 0 && l.n%l.every == 0 {
		time.Sleep(time.Millisecond)
	}
	return l.Reader.Read(b)
}

// A passage is one body through the netstack.
type passage struct {
	way  string // transparent, explicit, tunnel, raw
	down bool
	old  bool // the client speaks HTTP/1.0
	busy bool // the other direction is, too, and fails with this one
	body *sent
	dst  netip.AddrPort
	lazy int
}

func newPassage(r *rand.Rand, dst netip.AddrPort) *passage {
	p := &passage{way: []string{"transparent", "explicit", "tunnel", "raw"}[r.IntN(4)], down: r.IntN(2) == 0, dst: dst}
	framing := r.IntN(framings)
	switch {
	case p.way == "raw":
		framing = byEnd
	case !p.down:
		framing = r.IntN(byEnd)
	}
	p.body = newSent(r, framing, r.IntN(ends))
	p.busy = p.body.end == endReset && r.IntN(2) == 0
	p.old = p.down && !p.busy && p.way != "tunnel" && r.IntN(4) == 0
	p.lazy = r.IntN(30)
	return p
}

func (p *passage) String() string {
	return fmt.Sprintf("%s, down %v, %d octets framed by %s, ended by %s, HTTP/1.0 %v, busy %v", p.way, p.down, len(p.body.data),
		framedWith[p.body.framing], endNames[p.body.end], p.old, p.busy)
}

// flood writes until that fails, and tells how.
func flood(c net.Conn) <-chan error {
	told := make(chan error, 1)
	go func() {
		err := floodOver(c)
		if a, ok := c.(agentEnd); ok && tcp.EndpointState(a.ep.State()) == tcp.StateError {
			err = errWasReset
		}
		told <- err
	}()
	return told
}

func floodOver(c io.Writer) error {
	for b := fmt.Appendf(nil, "%x\r\n%s\r\n", 8000, bytes.Repeat([]byte("f"), 8000)); ; {
		if _, err := c.Write(b); err != nil {
			return err
		}
	}
}

// serve is the server's end; got tells what arrived there.
func (p *passage) serve(c serverEnd, got chan<- error) {
	br := bufio.NewReader(&lazily{c, p.lazy, 0})
	var in io.Reader = br
	if p.way == "raw" {
		if _, err := br.Discard(len(rawWord)); err != nil {
			got <- p.body.check(nil, err)
			return
		}
	} else {
		req, err := http.ReadRequest(br)
		if err != nil {
			got <- p.body.check(nil, err)
			return
		}
		in = req.Body
	}
	if p.down {
		all := make(chan bool)
		go func() { _, _ = io.Copy(io.Discard, in); close(all) }()
		head := "HTTP/1.1 200 OK\r\n" + p.body.field() + "\r\n"
		if p.way == "raw" {
			head = ""
		}
		p.body.send(c, head)
		<-all
		_, _ = br.WriteTo(io.Discard) // until the other side has ended, too
		got <- nil
		return
	}
	var told <-chan error
	if p.busy && p.way == "raw" {
		told = flood(c)
	}
	b, err := io.ReadAll(in)
	got <- p.body.check(b, over(err, told))
	_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
	_, _ = br.WriteTo(io.Discard)
}

const rawWord = "raw it is\n"

// run is the client's end.
func (p *passage) run(b *bed) error {
	got := make(chan error, 1)
	b.serve(func(c net.Conn) { p.serve(serverEnd{c.(*tapped).Conn.(*net.TCPConn)}, got) }, p.dst)
	to := p.dst
	if p.way == "explicit" || p.way == "tunnel" {
		to = ap(gw4, 8080)
	}
	c := b.connectEnd(to)
	defer c.Close()
	br := bufio.NewReader(&lazily{c, p.lazy, 0})
	if p.way == "tunnel" {
		fmt.Fprintf(c, "CONNECT a.test:%d HTTP/1.1\r\nHost: a.test:%[1]d\r\n\r\n", p.dst.Port())
		if resp, err := http.ReadResponse(br, &http.Request{Method: "CONNECT"}); err != nil || resp.StatusCode != 200 {
			return fmt.Errorf("CONNECT: %v, %v", resp, err)
		}
	}
	head := rawWord
	if p.way != "raw" {
		target := "/"
		if p.way == "explicit" {
			target = fmt.Sprintf("http://a.test:%d/", p.dst.Port())
		}
		head = p.requestLine(target) + fmt.Sprintf("Host: a.test:%d\r\n", p.dst.Port()) + p.fields() + "\r\n"
	}
	if p.down {
		_, _ = io.WriteString(c, head)
		return p.receive(c, br, got)
	}
	if p.busy && p.way == "raw" {
		go func() { _, _ = br.WriteTo(io.Discard) }()
	}
	p.body.send(c, head)
	var err error
	select {
	case err = <-got:
	case <-time.After(patience): // or nobody was dialled any more
		if p.body.end == endWhole {
			err = errors.New("nothing arrived")
		}
	}
	if err == nil && p.body.end == endWhole && p.way != "raw" {
		var resp *http.Response
		if resp, err = http.ReadResponse(br, nil); err == nil && resp.StatusCode != 204 {
			err = errors.New(resp.Status)
		}
	}
	return err
}

// receive reads the body that comes down.
func (p *passage) receive(c agentEnd, br *bufio.Reader, got <-chan error) error {
	var told <-chan error
	if p.busy {
		told = flood(c)
	}
	var in io.Reader = br
	if p.way != "raw" {
		resp, err := http.ReadResponse(br, nil)
		if err == nil && resp.StatusCode != 200 {
			err = errors.New(resp.Status)
		}
		if err != nil {
			return p.body.check(nil, err)
		}
		in = resp.Body
	}
	b, err := io.ReadAll(in)
	err = p.body.check(b, over(err, told))
	_ = c.CloseWrite()
	if p.busy {
		c.reset()
	}
	select {
	case gerr := <-got:
		return errors.Join(err, gerr)
	case <-time.After(patience):
		return err
	}
}

func (p *passage) requestLine(target string) string {
	switch {
	case p.old:
		return "GET " + target + " HTTP/1.0\r\n"
	case p.down && !p.busy:
		return "GET " + target + " HTTP/1.1\r\n"
	}
	return "POST " + target + " HTTP/1.1\r\n"
}

func (p *passage) fields() string {
	switch {
	case !p.down:
		return p.body.field()
	case p.busy:
		return "Transfer-Encoding: chunked\r\n"
	}
	return ""
}

// What arrives is a prefix of what was sent, whatever the way, the framing, the
// pieces and the moment of the end; and what was cut off never looks whole.
func TestCutBodies(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowA), func(_ *Config, times *timeouts) { times.first = patience })
	b.pins.pin("a.test", shared)
	for seed := range uint64(passages()) {
		p := newPassage(rand.New(rand.NewPCG(seed, 2)), ap(shared, uint16(1000+seed)))
		if err := p.run(b); err != nil {
			t.Errorf("seed %d: %s: %v", seed, p, err)
		}
	}
}

func passages() int {
	if n, err := strconv.Atoi(os.Getenv("OUTCALL_PASSAGES")); err == nil {
		return n
	}
	return 100
}

// A reset that a write was told of is no end of the stream to who reads.
func TestResetIsNoEnd(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowA))
	b.pins.pin("a.test", shared)
	dst := ap(shared, 9)
	b.serve(func(c net.Conn) {
		_, _ = c.Read(make([]byte, 1))
		serverEnd{c.(*tapped).Conn.(*net.TCPConn)}.reset()
	}, dst)
	c := b.connectEnd(dst)
	_ = floodOver(c)
	if n, err := (&agentConn{c.TCPConn, c.ep}).Wait(); n != 0 || err == nil || err == io.EOF {
		t.Errorf("Wait: %d, %v", n, err)
	}
}
