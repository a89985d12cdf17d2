package world

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/websocket"
)

// A Request is one HTTP request that an origin got.
type Request struct {
	Host, Method, URI string
	SNI               string // "" over plain HTTP
	Proto             string
	Addr              netip.AddrPort // the origin's address
	Header            http.Header
}

// A Hello is one TLS ClientHello that an origin got.
type Hello struct {
	SNI  string
	Addr netip.AddrPort
}

// Greeting is what the server that speaks first says.
const Greeting = "SSH-2.0-world\r\n"

// Origins are all the servers but the resolver. They answer at every address.
type Origins struct {
	ca *CA

	mu       sync.Mutex
	handlers map[string]http.Handler
	requests []Request
	hellos   []Hello
	conns    map[net.Conn]bool

	closers []io.Closer
	https   []*http.Server
	done    sync.WaitGroup
}

// Requests returns the HTTP requests that have arrived.
func (o *Origins) Requests() []Request {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]Request(nil), o.requests...)
}

// Hellos returns the ClientHellos that have arrived.
func (o *Origins) Hellos() []Hello {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]Hello(nil), o.hellos...)
}

// Handle serves a path prefix such as "/repo/" at every origin.
func (o *Origins) Handle(prefix string, h http.Handler) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.handlers == nil {
		o.handlers = map[string]http.Handler{}
	}
	o.handlers[prefix] = http.StripPrefix(strings.TrimSuffix(prefix, "/"), h)
}

func (o *Origins) handler(path string) http.Handler {
	o.mu.Lock()
	defer o.mu.Unlock()
	for prefix, h := range o.handlers {
		if strings.HasPrefix(path, prefix) {
			return h
		}
	}
	return nil
}

// The ports of the servers that stand where clients expect them. Each kind
// stands on a random port as well (World.Ports).
const (
	portEcho  = 7
	portGreet = 22
)

func (o *Origins) start(internet *place, ports *Ports) error {
	o.conns = map[net.Conn]bool{}
	for port, serve := range map[uint16]func(net.Listener){
		80: o.serveHTTP, 8080: o.serveHTTP, ports.HTTP: o.serveHTTP,
		443: o.serveTLS, 8443: o.serveTLS, ports.HTTPS: o.serveTLS,
		portEcho: o.each(echo), ports.Echo: o.each(echo),
		portGreet: o.each(greet), ports.Greet: o.each(greet),
	} {
		var ln net.Listener
		err := internet.do(func() (err error) {
			ln, err = net.Listen("tcp", ":"+strconv.Itoa(int(port)))
			return err
		})
		if err != nil {
			return err
		}
		o.closers = append(o.closers, ln)
		o.done.Go(func() { serve(ln) })
	}
	for _, port := range []uint16{443, ports.HTTPS} {
		for _, family := range []string{"udp4", "udp6"} {
			if err := o.serveQUIC(internet, family, port); err != nil {
				return err
			}
		}
	}
	for _, port := range []uint16{portEcho, ports.Echo} {
		for _, family := range []string{"udp4", "udp6"} {
			if err := o.udpEcho(internet, family, port); err != nil {
				return err
			}
		}
	}
	return nil
}

func (o *Origins) close() error {
	var errs []error
	for _, s := range o.https {
		errs = append(errs, s.Close())
	}
	for _, c := range o.closers {
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	o.mu.Lock()
	for c := range o.conns {
		c.Close()
	}
	o.mu.Unlock()
	o.done.Wait()
	return errors.Join(errs...)
}

func (o *Origins) serveHTTP(ln net.Listener) { o.serve(ln) }

func (o *Origins) serveTLS(ln net.Listener) {
	cfg := o.ca.config()
	cfg.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		addr, _ := netip.ParseAddrPort(h.Conn.LocalAddr().String())
		o.mu.Lock()
		o.hellos = append(o.hellos, Hello{SNI: h.ServerName, Addr: unmap(addr)})
		o.mu.Unlock()
		return nil, nil
	}
	o.serve(tls.NewListener(ln, cfg))
}

func (o *Origins) serve(ln net.Listener) {
	mux := http.NewServeMux()
	mux.HandleFunc("/bytes", sendBytes)
	mux.HandleFunc("/sum", sum)
	mux.Handle("/ws", websocket.Handler(func(c *websocket.Conn) { io.Copy(c, c) }))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if h := o.handler(r.URL.Path); h != nil {
			h.ServeHTTP(w, r)
			return
		}
		io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "origin %s %s\n", r.Host, r.URL.RequestURI())
	})
	s := &http.Server{
		Handler:     http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { o.note(r); mux.ServeHTTP(w, r) }),
		ErrorLog:    log.New(io.Discard, "", 0), // handshakes that a test breaks off on purpose
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
	o.mu.Lock()
	o.https = append(o.https, s)
	o.mu.Unlock()
	s.Serve(ln)
}

type connKey struct{}

func (o *Origins) note(r *http.Request) {
	q := Request{Host: r.Host, Method: r.Method, URI: r.RequestURI, Proto: r.Proto, Header: r.Header.Clone()}
	if r.TLS != nil {
		q.SNI = r.TLS.ServerName
	}
	if c, ok := r.Context().Value(connKey{}).(net.Conn); ok {
		a, _ := netip.ParseAddrPort(c.LocalAddr().String())
		q.Addr = unmap(a)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.requests = append(o.requests, q)
}

// each serves one function per connection.
func (o *Origins) each(f func(net.Conn)) func(net.Listener) {
	return func(ln net.Listener) {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			o.mu.Lock()
			o.conns[c] = true
			o.mu.Unlock()
			o.done.Go(func() {
				f(c)
				c.Close()
				o.mu.Lock()
				delete(o.conns, c)
				o.mu.Unlock()
			})
		}
	}
}

func echo(c net.Conn) { io.Copy(c, c) }

func greet(c net.Conn) {
	io.WriteString(c, Greeting)
	io.Copy(c, c)
}

// udpEcho answers from the address that was asked: a socket per datagram's
// address is not needed, since the control message names it.
func (o *Origins) udpEcho(internet *place, family string, port uint16) error {
	return internet.do(func() error {
		c, err := newReplier(family, port)
		if err != nil {
			return fmt.Errorf("%s echo: %w", family, err)
		}
		o.closers = append(o.closers, c)
		o.done.Go(c.run)
		return nil
	})
}

// pattern is the endless body of /bytes: a test can check any part of it.
var pattern = func() []byte {
	b := make([]byte, 1<<16)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}()

// BytesSum returns the SHA-256, in hex, of the first n bytes of /bytes?n=.
func BytesSum(n int64) string {
	h := sha256.New()
	writePattern(h, n)
	return fmt.Sprintf("%x", h.Sum(nil))
}

func writePattern(w io.Writer, n int64) error {
	for n > 0 {
		part := pattern[:min(n, int64(len(pattern)))]
		if _, err := w.Write(part); err != nil {
			return err
		}
		n -= int64(len(part))
	}
	return nil
}

func sendBytes(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.FormValue("n"), 10, 64)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	writePattern(w, n)
}

func sum(w http.ResponseWriter, r *http.Request) {
	h := sha256.New()
	n, err := io.Copy(h, r.Body)
	if err != nil {
		return
	}
	fmt.Fprintf(w, "%d %x\n", n, h.Sum(nil))
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
