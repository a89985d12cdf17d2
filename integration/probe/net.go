package main

import (
	"bufio"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/websocket"
	"golang.org/x/sys/unix"
)

// wait bounds every wait for an answer: silence is an answer, too.
const wait = 3 * time.Second

// tcpOp connects, sends, reads once: tcp PAYLOAD ADDR:PORT...
func tcpOp(args []string) {
	for _, to := range args[1:] {
		attempt("tcp", to, func() (string, error) { return exchange(to, []byte(args[0])) })
	}
}

// bytesOp is tcpOp with hexadecimal bytes; each word after the address is
// sent by itself after a pause: bytes ADDR:PORT HEX...
func bytesOp(args []string) {
	attempt("bytes", args[0], func() (string, error) {
		var parts [][]byte
		for _, a := range args[1:] {
			b, err := hex.DecodeString(a)
			if err != nil {
				return "", err
			}
			parts = append(parts, b)
		}
		return exchange(args[0], parts...)
	})
}

func exchange(to string, parts ...[]byte) (string, error) {
	c, err := net.DialTimeout("tcp", to, wait)
	if err != nil {
		return "", err
	}
	defer c.Close()
	for i, p := range parts {
		if i > 0 {
			// What a slow client does is the attempt itself.
			time.Sleep(300 * time.Millisecond)
		}
		if _, err := c.Write(p); err != nil {
			return "", err
		}
	}
	c.SetReadDeadline(time.Now().Add(wait))
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if n > 0 {
		err = nil
	}
	return string(b[:n]), err
}

// scanOp connects to each port of one address and tells which were open.
func scanOp(args []string) {
	open := []string{}
	attempt("scan", args[0], func() (string, error) {
		var first, last int
		if _, err := fmt.Sscanf(args[1], "%d-%d", &first, &last); err != nil {
			return "", err
		}
		results := make(chan string)
		slots := make(chan struct{}, 64)
		go func() {
			for p := first; p <= last; p++ {
				slots <- struct{}{}
				go func() {
					defer func() { <-slots }()
					c, err := net.DialTimeout("tcp", net.JoinHostPort(args[0], fmt.Sprint(p)), wait)
					if err != nil {
						results <- ""
						return
					}
					c.Close()
					results <- fmt.Sprint(p)
				}()
			}
		}()
		for p := first; p <= last; p++ {
			if r := <-results; r != "" {
				open = append(open, r)
			}
		}
		return strings.Join(open, " "), nil
	})
}

// holdOp keeps one connection open and echoes lines over it until stdin ends.
func holdOp(args []string) {
	c, err := net.DialTimeout("tcp", args[0], wait)
	if err != nil {
		attempt("hold", args[0], func() (string, error) { return "", err })
		return
	}
	defer c.Close()
	fmt.Println("held")
	in, far := bufio.NewScanner(os.Stdin), bufio.NewReader(c)
	for in.Scan() {
		attempt("hold", args[0], func() (string, error) {
			c.SetDeadline(time.Now().Add(wait))
			if _, err := fmt.Fprintln(c, in.Text()); err != nil {
				return "", err
			}
			return far.ReadString('\n')
		})
	}
}

// udpOp sends one datagram and waits for an answer: udp PAYLOAD ADDR:PORT...
func udpOp(args []string) {
	for _, to := range args[1:] {
		attempt("udp", to, func() (string, error) {
			c, err := net.Dial("udp", to)
			if err != nil {
				return "", err
			}
			defer c.Close()
			if _, err := c.Write([]byte(args[0])); err != nil {
				return "", err
			}
			c.SetReadDeadline(time.Now().Add(wait))
			b := make([]byte, 4096)
			n, err := c.Read(b)
			return string(b[:n]), err
		})
	}
}

// icmpOp sends an echo request by an unprivileged ping socket.
func icmpOp(args []string) {
	for _, to := range args[1:] {
		attempt("icmp", to, func() (string, error) { return ping(to, args[0]) })
	}
}

func ping(to, payload string) (string, error) {
	a, err := netip.ParseAddr(to)
	if err != nil {
		return "", err
	}
	family, proto, kind := unix.AF_INET, unix.IPPROTO_ICMP, byte(8)
	var sa unix.Sockaddr
	if a.Is4() {
		sa = &unix.SockaddrInet4{Addr: a.As4()}
	} else {
		family, proto, kind = unix.AF_INET6, unix.IPPROTO_ICMPV6, 128
		sa = &unix.SockaddrInet6{Addr: a.As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM, proto)
	if err != nil {
		return "", fmt.Errorf("ping socket: %w", err)
	}
	defer unix.Close(fd)
	tv := unix.NsecToTimeval(wait.Nanoseconds())
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	if err := unix.Connect(fd, sa); err != nil {
		return "", fmt.Errorf("connect: %w", err)
	}
	msg := append([]byte{kind, 0, 0, 0, 0, 0, 0, 1}, payload...)
	if _, err := unix.Write(fd, msg); err != nil {
		return "", fmt.Errorf("send: %w", err)
	}
	b := make([]byte, 2048)
	n, err := unix.Read(fd, b)
	if err != nil {
		return "", fmt.Errorf("receive: %w", err)
	}
	return string(b[min(8, n):n]), nil
}

// rawOp tries every socket that could send past the transport layer.
func rawOp(args []string) {
	dst := netip.MustParseAddr(args[1])
	for _, s := range []struct {
		name                string
		family, kind, proto int
	}{
		{"raw-icmp", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP}, {"raw-hdrincl", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW},
		{"raw-gre", unix.AF_INET, unix.SOCK_RAW, 47}, {"raw-ipip", unix.AF_INET, unix.SOCK_RAW, 4},
		{"raw6", unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_RAW}, {"packet", unix.AF_PACKET, unix.SOCK_RAW, 0x0300},
		{"packet-dgram", unix.AF_PACKET, unix.SOCK_DGRAM, 0x0008}, {"sctp", unix.AF_INET, unix.SOCK_STREAM, 132},
		{"sctp-seq", unix.AF_INET, unix.SOCK_SEQPACKET, 132}, {"udplite", unix.AF_INET, unix.SOCK_DGRAM, 136},
		{"dccp", unix.AF_INET, 6, 33}, {"mptcp", unix.AF_INET, unix.SOCK_STREAM, 262},
	} {
		attempt("raw", s.name, func() (string, error) {
			fd, err := unix.Socket(s.family, s.kind, s.proto)
			if err != nil {
				return "", err
			}
			defer unix.Close(fd)
			var sa unix.Sockaddr = &unix.SockaddrInet4{Addr: dst.As4(), Port: 443}
			if s.family == unix.AF_INET6 {
				sa = &unix.SockaddrInet6{Port: 443}
			}
			if s.kind == unix.SOCK_STREAM || s.kind == unix.SOCK_SEQPACKET || s.kind == 6 {
				err = unix.Connect(fd, sa)
			} else {
				err = unix.Sendto(fd, []byte(args[0]), 0, sa)
			}
			return "socket", err
		})
	}
}

// tlsOp shakes hands with a server name and tells the alert: tls SNI ADDR:PORT...
func tlsOp(args []string) {
	for _, to := range args[1:] {
		attempt("tls", to, func() (string, error) {
			c, err := net.DialTimeout("tcp", to, wait)
			if err != nil {
				return "", err
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(wait))
			tc := tls.Client(c, &tls.Config{ServerName: args[0], InsecureSkipVerify: true})
			if err := tc.Handshake(); err != nil {
				return "", err
			}
			return tc.ConnectionState().PeerCertificates[0].Subject.CommonName, nil
		})
	}
}

// connectOp sends CONNECT, or any request line, to a proxy and prints the
// status and body: connect PROXY LINE [HEX to send in the tunnel]
func connectOp(args []string) {
	attempt("connect", args[1], func() (string, error) {
		c, err := net.DialTimeout("tcp", args[0], wait)
		if err != nil {
			return "", err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(wait))
		line := strings.NewReplacer(`\r`, "\r", `\n`, "\n", `\t`, "\t", `\0`, "\x00").Replace(args[1])
		if _, err := io.WriteString(c, withHost(line)+"\r\n\r\n"); err != nil {
			return "", err
		}
		br := bufio.NewReader(c)
		r, err := http.ReadResponse(br, &http.Request{Method: strings.Fields(line + " x")[0]})
		if err != nil {
			return "", err
		}
		if r.StatusCode == http.StatusOK && len(args) > 2 {
			b, err := hex.DecodeString(args[2])
			if err != nil {
				return "", err
			}
			if _, err := c.Write(b); err != nil {
				return r.Status, err
			}
			answer := make([]byte, 4096)
			n, err := br.Read(answer)
			return r.Status + "\n" + string(answer[:n]), err
		}
		body, _ := io.ReadAll(io.LimitReader(r.Body, 4096))
		return r.Status + "\n" + string(body), nil
	})
}

// withHost adds the Host field that belongs to the target, if the head has
// none: without it, every HTTP/1.1 request is refused for that alone.
func withHost(head string) string {
	words := strings.Fields(head)
	if len(words) < 2 || strings.Contains(head, "\r\nHost:") {
		return head
	}
	host, _, _ := strings.Cut(strings.TrimPrefix(words[1], "http://"), "/")
	return head + "\r\nHost: " + host
}

// getOp asks for URLs as Go programs do: get URL...
func getOp(args []string) {
	for _, url := range args {
		attempt("get", url, func() (string, error) {
			r, err := http.Get(url)
			if err != nil {
				return "", err
			}
			defer r.Body.Close()
			b, err := io.ReadAll(io.LimitReader(r.Body, 4096))
			if err == nil && r.StatusCode != http.StatusOK {
				err = errors.New(r.Status)
			}
			return string(b), err
		})
	}
}

// wsOp opens a WebSocket, is idle for a while and then echoes a word.
func wsOp(args []string) {
	idle, err := time.ParseDuration(args[1])
	if err != nil {
		idle = 0
	}
	attempt("ws", args[0], func() (string, error) {
		c, err := websocket.Dial(args[0], "", "http://localhost/")
		if err != nil {
			return "", err
		}
		defer c.Close()
		time.Sleep(idle) // being idle is the attempt itself
		if err := websocket.Message.Send(c, "still here"); err != nil {
			return "", err
		}
		var s string
		err = websocket.Message.Receive(c, &s)
		return s, err
	})
}

// serveOp answers HTTP on a local port and asks itself with the environment's
// proxy settings, as a development server and its browser would.
func serveOp(args []string) {
	attempt("serve", args[0], func() (string, error) {
		ln, err := net.Listen("tcp", args[0])
		if err != nil {
			return "", err
		}
		go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "served") }))
		r, err := http.Get("http://" + args[0] + "/")
		if err != nil {
			return "", err
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err == nil && r.StatusCode != http.StatusOK {
			err = errors.New(r.Status)
		}
		return string(b), err
	})
}
