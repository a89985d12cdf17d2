package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// loadOp keeps many connections that each cost the other side something, says
// how many stand, and holds them until it is ended: load KIND COUNT ADDR:PORT
//
//	idle    has a word echoed and is silent from then on
//	tunnel  the same through the proxy at 10.200.0.1:8080
//	stuck   asks for more octets than anyone buffers, and reads none of them
//	slow    sends a request's head, an octet each second
func loadOp(args []string) {
	var count int
	if _, err := fmt.Sscan(args[1], &count); err != nil {
		attempt("load", args[1], func() (string, error) { return "", err })
		return
	}
	var stand, failed atomic.Int64
	var first sync.Once
	var all sync.WaitGroup
	turns := make(chan struct{}, 64)
	for range count {
		turns <- struct{}{}
		all.Go(func() {
			defer func() { <-turns }()
			if err := burden(args[0], args[2]); err != nil {
				failed.Add(1)
				first.Do(func() { attempt("load", args[0], func() (string, error) { return "", err }) })
				return
			}
			stand.Add(1)
		})
	}
	all.Wait()
	fmt.Println("loaded", stand.Load(), "failed", failed.Load())
	// With nothing but connections, Go ends a program that waits without a clock.
	for {
		time.Sleep(time.Hour)
	}
}

// burdens keeps connections from being collected, and so closed.
var (
	burdensMu sync.Mutex
	burdens   []net.Conn
)

func burden(kind, to string) error {
	via := "-"
	if kind == "tunnel" {
		via = "10.200.0.1:8080"
	}
	d := net.Dialer{Timeout: 20 * time.Second, KeepAlive: -1}
	if kind == "stuck" {
		d.Control = func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
		}
	}
	c, err := dialWith(d, via, to)
	if err != nil {
		return err
	}
	burdensMu.Lock()
	burdens = append(burdens, c)
	burdensMu.Unlock()
	switch kind {
	case "stuck":
		_, err = io.WriteString(c, "GET /bytes?n=1000000000 HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n")
	case "slow":
		go func() {
			for _, b := range []byte("GET / HTTP/1.1\r\nX-Slow: yes\r\nHost: api.allowed.test\r\n\r\n") {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second) // being slow is the attempt itself
			}
		}()
	default:
		_, err = echoed(c, "*1\r\n")
	}
	return err
}

// pressOp asks a server RATE questions a second, each for a name of its own, for
// some time, says how many it has begun with, and tells what it sent and what was
// answered: press SERVER:PORT RATE SECONDS SUFFIX
func pressOp(args []string) {
	attempt("press", args[3], func() (string, error) {
		var rate, seconds int
		if _, err := fmt.Sscan(args[1]+" "+args[2], &rate, &seconds); err != nil {
			return "", err
		}
		c, err := net.Dial("udp", args[0])
		if err != nil {
			return "", err
		}
		msg, err := new(dns.Msg).SetQuestion("n00000000."+args[3]+".", dns.TypeA).Pack()
		if err != nil {
			return "", err
		}
		const label = 12 + 2 // behind the header, the label's length and its first letter
		var answered atomic.Int64
		go func() {
			for b := make([]byte, 4096); ; answered.Add(1) {
				if _, err := c.Read(b); err != nil {
					return
				}
			}
		}()
		start, sent, refused, told := time.Now(), 0, 0, false
		for total := rate * seconds; sent < total; {
			for due := min(total, int(float64(rate)*time.Since(start).Seconds())); sent < due; sent++ {
				binary.BigEndian.PutUint16(msg, uint16(sent))
				copy(msg[label:], fmt.Sprintf("%08d", sent))
				if _, err := c.Write(msg); err != nil {
					refused++ // the kernel's own queue is full
				}
			}
			if sent >= rate && !told {
				told = true
				fmt.Println("pressing", sent)
			}
			time.Sleep(time.Millisecond)
		}
		took := time.Since(start)
		time.Sleep(wait / 3) // for the last answers
		c.Close()
		return fmt.Sprint(sent, " ", refused, " ", answered.Load(), " ", took.Milliseconds()), nil
	})
}

// tripsOp measures round trips over one connection, and how long each of some
// new connections takes to have a word echoed: the two medians and the two
// longest, in ms: trips COUNT ADDR:PORT
func tripsOp(args []string) {
	var count int
	fmt.Sscan(args[0], &count)
	attempt("trips", args[1], func() (string, error) {
		c, err := net.DialTimeout("tcp", args[1], 5*wait)
		if err != nil {
			return "", err
		}
		defer c.Close()
		var old, fresh []time.Duration
		for range count {
			start := time.Now()
			if _, err := echoed(c, "*1\r\n"); err != nil {
				return "", err
			}
			old = append(old, time.Since(start))
			start = time.Now()
			n, err := net.DialTimeout("tcp", args[1], 5*wait)
			if err != nil {
				return "", err
			}
			_, err = echoed(n, "*1\r\n")
			n.Close()
			if err != nil {
				return "", err
			}
			fresh = append(fresh, time.Since(start))
		}
		o, n := median(old), median(fresh) // sorted from here on
		return fmt.Sprint(o, " ", n, " ", old[len(old)-1].Milliseconds(), " ", fresh[len(fresh)-1].Milliseconds()), nil
	})
}

func median(d []time.Duration) int64 {
	slices.Sort(d)
	return d[len(d)/2].Milliseconds()
}
