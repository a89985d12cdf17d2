package main

import (
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
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
	select {}
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
	var c net.Conn
	var err error
	if via == "-" {
		c, err = d.Dial("tcp", to)
	} else {
		c, err = dialVia(via, to)
	}
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

// tripsOp measures round trips over one connection, and how long each of some
// new connections takes to have a word echoed, in ms: trips COUNT ADDR:PORT
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
		return fmt.Sprint(median(old), " ", median(fresh)), nil
	})
}

func median(d []time.Duration) int64 {
	slices.Sort(d)
	return d[len(d)/2].Milliseconds()
}
