package world

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// serveQUIC answers HTTP/3 at every address of one family.
func (o *Origins) serveQUIC(internet *place, family string, port uint16) error {
	cfg := o.ca.config()
	return internet.do(func() error {
		pc, err := listenUDP(family, port)
		if err != nil {
			return fmt.Errorf("%s QUIC: %w", family, err)
		}
		tr := &quic.Transport{Conn: pc}
		ln, err := tr.ListenEarly(http3.ConfigureTLSConfig(cfg), &quic.Config{Allow0RTT: true, Versions: []quic.Version{quic.Version1, quic.Version2}})
		if err != nil {
			pc.Close()
			return fmt.Errorf("%s QUIC: %w", family, err)
		}
		s := &http3.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			o.note(r)
			n, _ := io.Copy(io.Discard, r.Body)
			fmt.Fprintf(w, "origin %s %s %d\n", r.Host, r.URL.RequestURI(), n)
		})}
		o.closers = append(o.closers, s, ln, tr, pc)
		o.done.Go(func() {
			for {
				c, err := ln.Accept(context.Background())
				if err != nil {
					return
				}
				o.noteQUIC(c)
				o.done.Go(func() { _ = s.ServeQUICConn(c) }) // ends with the transport
			}
		})
		return nil
	})
}

// noteQUIC notes the name of a handshake, where it is known: early data can
// come before.
func (o *Origins) noteQUIC(c *quic.Conn) {
	addr, _ := netip.ParseAddrPort(c.LocalAddr().String())
	o.mu.Lock()
	defer o.mu.Unlock()
	o.hellos = append(o.hellos, Hello{SNI: c.ConnectionState().TLS.ServerName, Addr: unmap(addr)})
}

// pingRange is where the host of a world says who may have ping sockets.
const pingRange = "/proc/sys/net/ipv4/ping_group_range"

// PingSockets gives the host's users ping sockets until the test ends.
func (w *World) PingSockets(t testing.TB) {
	t.Helper()
	old, err := os.ReadFile(pingRange)
	if err == nil {
		err = os.WriteFile(pingRange, fmt.Appendf(nil, "%d %d\n", os.Getegid(), os.Getegid()), 0)
	}
	if err != nil {
		t.Fatalf("world: the owner of a network namespace may set who has ping sockets: %v", err)
	}
	t.Cleanup(func() { os.WriteFile(pingRange, old, 0) })
}

// PathMTU makes the way from the host to an address as narrow as mtu, until the
// test ends.
func (w *World) PathMTU(t testing.TB, a netip.Addr, mtu int) {
	t.Helper()
	if err := narrow(a, mtu); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { narrow(a, 0) })
}
