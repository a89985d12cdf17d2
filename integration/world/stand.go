package world

import (
	"net"
	"os/exec"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// Stand serves each connection to a port, at every address of the internet, by
// f. The connections that are left are closed when the test ends.
func (w *World) Stand(t testing.TB, port uint16, f func(*net.TCPConn)) {
	t.Helper()
	var ln net.Listener
	err := w.internet.do(func() (err error) {
		ln, err = net.Listen("tcp", ":"+strconv.Itoa(int(port)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Origins.mu.Lock()
	w.Origins.closers = append(w.Origins.closers, ln)
	w.Origins.mu.Unlock()
	serve := w.Origins.each(func(c net.Conn) { f(c.(*net.TCPConn)) })
	w.Origins.done.Go(func() { serve(ln) })
}

// StandSilent is a port whose queue is full: nobody answers its SYNs. It holds
// for the IPv4 addresses or the IPv6 ones of the internet.
func (w *World) StandSilent(t testing.TB, family int, port uint16, at net.IP) {
	t.Helper()
	var fd int
	err := w.internet.do(func() (err error) {
		if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		var any unix.Sockaddr = &unix.SockaddrInet4{Port: int(port)}
		if family == unix.AF_INET6 {
			any = &unix.SockaddrInet6{Port: int(port)}
		}
		if err = unix.Bind(fd, any); err != nil {
			return err
		}
		return unix.Listen(fd, 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	// A queue of no length takes one.
	c, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: at, Port: int(port)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
}

// StartThere starts a command on the internet's side.
func (w *World) StartThere(cmd *exec.Cmd) error { return w.internet.do(cmd.Start) }
