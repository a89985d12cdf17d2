package main

import (
	"bufio"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/websocket"
)

// idleOp opens a connection, directly (-) or by CONNECT, has a word echoed,
// says so, is silent for a while, and has a second word echoed:
// idle tcp|ws|wss -|PROXY HOST:PORT DURATION
func idleOp(args []string) {
	kind, via, to := args[0], args[1], args[2]
	attempt("idle", kind+" "+via, func() (string, error) {
		silence, err := time.ParseDuration(args[3])
		if err != nil {
			return "", err
		}
		c, err := dialVia(via, to)
		if err != nil {
			return "", err
		}
		defer c.Close()
		rw, err := speak(kind, to, c)
		if err != nil {
			return "", err
		}
		if s, err := echoed(rw, "first\n"); err != nil {
			return s, err
		}
		fmt.Println("silent", kind, via, c.LocalAddr())
		time.Sleep(silence) // being silent is the attempt itself
		return echoed(rw, "still here\n")
	})
}

// awaitOp opens a connection, directly (-) or by CONNECT, says the beginning of
// something or nothing, and waits for the server to speak, longer than a first
// flight may take: await -|PROXY HOST:PORT [HEX]
func awaitOp(args []string) {
	attempt("await", args[0]+" "+args[1], func() (string, error) {
		c, err := dialVia(args[0], args[1])
		if err != nil {
			return "", err
		}
		defer c.Close()
		if len(args) > 2 {
			b, err := hex.DecodeString(args[2])
			if err != nil {
				return "", err
			}
			if _, err := c.Write(b); err != nil {
				return "", err
			}
		}
		c.SetReadDeadline(time.Now().Add(25 * time.Second))
		b, err := io.ReadAll(io.LimitReader(c, 4096))
		return string(b), err
	})
}

func dialVia(via, to string) (net.Conn, error) { return dialWith(net.Dialer{Timeout: wait}, via, to) }

func dialWith(d net.Dialer, via, to string) (net.Conn, error) {
	if via == "-" {
		return d.Dial("tcp", to)
	}
	c, err := d.Dial("tcp", via)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", to, to)
	r, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: http.MethodConnect})
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("CONNECT: %s", r.Status)
	}
	return c, err
}

func speak(kind, to string, c net.Conn) (io.ReadWriter, error) {
	if kind == "tcp" {
		return c, nil
	}
	host, _, err := net.SplitHostPort(to)
	if err != nil {
		return nil, err
	}
	if kind == "wss" {
		c = tls.Client(c, &tls.Config{ServerName: host, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	}
	cfg, err := websocket.NewConfig(kind+"://"+host+"/ws", "http://localhost/")
	if err != nil {
		return nil, err
	}
	return websocket.NewClient(cfg, c)
}

func echoed(rw io.ReadWriter, word string) (string, error) {
	if _, err := io.WriteString(rw, word); err != nil {
		return "", err
	}
	b := make([]byte, len(word))
	_, err := io.ReadFull(rw, b)
	return string(b), err
}
