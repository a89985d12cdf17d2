package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/websocket"
)

// gateway is where the session's proxy stands.
const gateway = "10.200.0.1:8080"

// A kept connection stays open between exchanges.
type kept struct {
	spec     string
	conn     net.Conn                          // what deadlines are set on
	exchange func(word string) (string, error) // sends the word and reads the answer
	wait     func() error                      // reads, although nothing is to come
}

// keepOp opens connections and does what standard input says, on each of them:
// "send WORD" is one exchange of WORD.SPEC, "closed" waits until they end.
//
//	keep KIND,FAMILY,HOST,PORT...
//
// The kinds are raw (an echo), http and https (requests on one connection), ws,
// and through the proxy: absolute, tunnel (of https) and tunnelraw.
func keepOp(args []string) {
	var all []*kept
	for _, spec := range args {
		attempt("keep", spec, func() (string, error) {
			k, err := open(spec)
			if err == nil {
				all = append(all, k)
			}
			return "", err
		})
	}
	fmt.Println("kept")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); fmt.Println("did " + in.Text()) {
		what, word, _ := strings.Cut(in.Text(), " ")
		var wg sync.WaitGroup
		for _, k := range all {
			wg.Go(func() {
				attempt(what, k.spec, func() (string, error) {
					k.conn.SetDeadline(time.Now().Add(wait))
					if what == "send" {
						return k.exchange(word + "." + strings.ReplaceAll(k.spec, ",", "."))
					}
					err := k.wait()
					var ne net.Error
					if errors.As(err, &ne) && ne.Timeout() {
						return "", err
					}
					return fmt.Sprint(err), nil
				})
			})
		}
		wg.Wait()
	}
}

func open(spec string) (*kept, error) {
	f := strings.Split(spec, ",")
	kind, network, host, port := f[0], "tcp"+f[1], f[2], f[3]
	to := net.JoinHostPort(host, port)
	proxied := kind == "absolute" || strings.HasPrefix(kind, "tunnel")
	dial := to
	if proxied {
		network, dial = "tcp", gateway
	}
	c, err := net.DialTimeout(network, dial, wait)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(wait))
	if strings.HasPrefix(kind, "tunnel") {
		fmt.Fprintf(c, "CONNECT %[1]s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", to)
		r, err := http.ReadResponse(bufio.NewReader(io.LimitReader(c, int64(len("HTTP/1.1 200 Connection Established\r\n\r\n")))), nil)
		if err != nil {
			return nil, err
		}
		if r.StatusCode != http.StatusOK {
			return nil, errors.New(r.Status)
		}
	}
	if kind == "https" || kind == "tunnel" {
		tc := tls.Client(c, &tls.Config{ServerName: host, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		if err := tc.Handshake(); err != nil {
			return nil, err
		}
		c = tc
	}
	switch kind {
	case "raw", "tunnelraw":
		return keepRaw(spec, c), nil
	case "ws":
		return keepWebSocket(spec, c, to)
	case "absolute":
		return keepHTTP(spec, c, "http://"+to, to), nil
	}
	return keepHTTP(spec, c, "", to), nil
}

func keepRaw(spec string, c net.Conn) *kept {
	br := bufio.NewReader(c)
	return &kept{spec: spec, conn: c, wait: func() error { _, err := br.Peek(1); return err }, exchange: func(word string) (string, error) {
		if _, err := fmt.Fprintf(c, "EHLO %s\r\n", word); err != nil {
			return "", err
		}
		return br.ReadString('\n')
	}}
}

func keepHTTP(spec string, c net.Conn, prefix, host string) *kept {
	br := bufio.NewReader(c)
	return &kept{spec: spec, conn: c, wait: func() error { _, err := br.Peek(1); return err }, exchange: func(word string) (string, error) {
		if _, err := fmt.Fprintf(c, "GET %s/%s HTTP/1.1\r\nHost: %s\r\n\r\n", prefix, word, host); err != nil {
			return "", err
		}
		r, err := http.ReadResponse(br, nil)
		if err != nil {
			return "", err
		}
		body, err := io.ReadAll(r.Body)
		if err == nil && r.StatusCode != http.StatusOK {
			err = errors.New(r.Status)
		}
		return string(body), err
	}}
}

func keepWebSocket(spec string, c net.Conn, to string) (*kept, error) {
	cfg, err := websocket.NewConfig("ws://"+to+"/ws", "http://localhost/")
	if err != nil {
		return nil, err
	}
	ws, err := websocket.NewClient(cfg, c)
	if err != nil {
		return nil, err
	}
	var s string
	return &kept{spec: spec, conn: c, wait: func() error { return websocket.Message.Receive(ws, &s) }, exchange: func(word string) (string, error) {
		if err := websocket.Message.Send(ws, word); err != nil {
			return "", err
		}
		err := websocket.Message.Receive(ws, &s)
		return s, err
	}}, nil
}
