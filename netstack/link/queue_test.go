package link

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// numbered is a packet of n octets that begins with i.
func numbered(i, n int) *stack.PacketBuffer {
	b := make([]byte, n)
	b[0] = byte(i)
	return stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
}

func sendOne(t *testing.T, e *frames, pkt *stack.PacketBuffer) {
	var list stack.PacketBufferList
	list.PushBack(pkt)
	if n, err := e.WritePackets(list); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

// TestFramesOrder: a short packet does not overtake the long ones before it.
func TestFramesOrder(t *testing.T) {
	e, in := datagrams(t, func(err error) { t.Error(err) })
	e.to = make(received) // as attached, but nothing is sent yet
	sizes := []int{100, queueFrom, 100, 200, queueFrom, 100}
	for i, n := range sizes {
		sendOne(t, e, numbered(i, n))
	}
	b := make([]byte, 1<<16)
	if n, err := unix.Read(in, b); err != nil || n != headerLen+100 || b[headerLen] != 0 {
		t.Fatalf("the first packet, with nothing queued: %d octets, %v", n, err)
	}
	if n, err := unix.Read(in, b); err == nil {
		t.Fatalf("packet %d of %d octets has overtaken", b[headerLen], n)
	}
	e.running.Go(e.send)
	e.Attach(nil) // ends when all is sent
	for i, size := range sizes[1:] {
		if n, err := unix.Read(in, b); err != nil || n != headerLen+size || int(b[headerLen]) != i+1 {
			t.Errorf("packet %d: got number %d, %d octets, %v", i+1, b[headerLen], n, err)
		}
	}
}

// TestFramesOrderSending: nor one that is just being sent, and no longer queued.
func TestFramesOrderSending(t *testing.T) {
	e, in := datagrams(t, func(err error) { t.Error(err) })
	e.Attach(make(received))
	defer e.Attach(nil)
	b := make([]byte, 1<<16)
	for i := range 2000 {
		sendOne(t, e, numbered(1, 60000)) // which takes a while
		for len(e.queue) > 0 {            // until the sender has it
			runtime.Gosched()
		}
		sendOne(t, e, numbered(2, 100))
		for want := byte(1); want <= 2; {
			n, err := unix.Read(in, b)
			if err == unix.EAGAIN {
				runtime.Gosched()
				continue
			}
			if err != nil || n < headerLen+1 || b[headerLen] != want {
				t.Fatalf("round %d: packet %d came for %d, %v", i, b[headerLen], want, err)
			}
			want++
		}
	}
}

// TestFramesQueueBound: who has more to send than the queue holds waits, until
// there is room; when the link ends nothing waits, and no packet is held.
func TestFramesQueueBound(t *testing.T) {
	e, _ := datagrams(t, func(err error) { t.Error(err) })
	e.to = make(received)
	var pkts []*stack.PacketBuffer
	for i := range queueLen + 1 {
		pkts = append(pkts, numbered(i, queueFrom))
	}
	for _, pkt := range pkts[:queueLen] {
		sendOne(t, e, pkt)
	}
	done := make(chan struct{})
	go func() { defer close(done); sendOne(t, e, pkts[queueLen]) }()
	select {
	case <-done:
		t.Errorf("more than %d packets are queued", queueLen)
	case <-time.After(50 * time.Millisecond):
	}
	e.running.Go(e.send)
	<-done
	e.Attach(nil)
	if n := e.queued.Load(); n != 0 {
		t.Errorf("%d packets are still queued", n)
	}
	for i, pkt := range pkts {
		if refs := pkt.ReadRefs(); refs != 1 {
			t.Errorf("packet %d is held %d times", i, refs-1)
		}
		pkt.DecRef()
	}
}
