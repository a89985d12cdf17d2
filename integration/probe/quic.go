package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/sys/unix"

	"outcall/integration/quictest"
)

// h3Op asks for URLs over HTTP/3 with a body of N octets, by the usual socket or
// (connected) by one that hears of ICMP errors, as curl's does:
// h3 usual|connected N URL...
func h3Op(args []string) {
	size, err := strconv.Atoi(args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(os.Getenv("SSL_CERT_FILE"))
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		fmt.Fprintln(os.Stderr, "no certificates:", err)
		os.Exit(2)
	}
	for _, url := range args[2:] {
		attempt("h3", url, func() (string, error) {
			t := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
			if args[0] == "connected" {
				t.Dial = dialConnected
			}
			defer t.Close()
			ctx, cancel := context.WithTimeout(context.Background(), 4*wait)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, "POST", url, bytes.NewReader(make([]byte, size)))
			if err != nil {
				return "", err
			}
			resp, err := t.RoundTrip(req)
			if err != nil {
				return "", err
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			return string(b), err
		})
	}
}

func dialConnected(ctx context.Context, addr string, cfg *tls.Config, qc *quic.Config) (*quic.Conn, error) {
	c, err := net.Dial("udp", addr)
	if err != nil {
		return nil, err
	}
	conn, err := (&quic.Transport{Conn: connected{c}}).DialEarly(ctx, c.RemoteAddr(), cfg, qc)
	if err != nil {
		c.Close()
	}
	return conn, err
}

// connected is a socket with one peer.
type connected struct{ net.Conn }

func (c connected) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := c.Read(b)
	return n, c.RemoteAddr(), err
}

func (c connected) WriteTo(b []byte, _ net.Addr) (int, error) { return c.Write(b) }

// quicOp sends datagrams to ADDR:PORT that a hostile client could, and prints
// whether each was refused: quic ADDR:PORT ALLOWED DENIED CANARY KIND... The canary
// stands in the clear behind the last datagram's last packet.
func quicOp(args []string) {
	to, allowed, denied, canary := args[0], args[1], args[2], args[3]
	for n, kind := range args[4:] {
		attempt("quic "+kind, to, func() (string, error) {
			c, err := net.Dial("udp", to)
			if err != nil {
				return "", err
			}
			defer c.Close()
			id := fmt.Appendf(nil, "%08d", n)
			all := hostile(kind, id, allowed, denied)
			all[len(all)-1] = append(all[len(all)-1], canary...)
			for _, d := range all {
				if _, err := c.Write(d); err != nil {
					return "", err
				}
				time.Sleep(20 * time.Millisecond) // so that the answer to one is not taken for the next one's
			}
			c.SetReadDeadline(time.Now().Add(wait))
			n, err := c.Read(make([]byte, 2048))
			return fmt.Sprint(n, " octets"), err
		})
	}
}

// hostile are the datagrams of one kind.
func hostile(kind string, id []byte, allowed, denied string) [][]byte {
	other := append([]byte("x"), id...)
	good, bad := quictest.Hello(id, allowed), quictest.Hello(other, denied)
	a, b := quictest.Halves(id, denied)
	switch kind {
	case "denied":
		return [][]byte{bad}
	case "halves":
		return [][]byte{a, b}
	case "second-half-first":
		return [][]byte{b, a}
	case "version-2":
		return [][]byte{quictest.Initial{Version: quictest.Version2, ID: id, Frames: quictest.Crypto(0, quictest.ClientHello(denied)), Pad: quictest.MinInitial}.Seal()}
	case "coalesced": // and short, so that it is no fragment
		a := quictest.Initial{ID: id, Frames: quictest.Crypto(0, quictest.ClientHello(allowed))}.Seal()
		return [][]byte{append(a, quictest.Initial{ID: other, Frames: quictest.Crypto(0, quictest.ClientHello(denied))}.Seal()...)}
	case "in-one-packet":
		frames := append(quictest.Crypto(0, quictest.ClientHello(allowed)), quictest.Crypto(len(quictest.ClientHello(allowed)), quictest.ClientHello(denied))...)
		return [][]byte{quictest.Initial{ID: id, Frames: frames, Pad: quictest.MinInitial}.Seal()}
	case "wrong-key":
		return [][]byte{quictest.Initial{ID: id, Key: other, Frames: quictest.Crypto(0, quictest.ClientHello(allowed)), Pad: quictest.MinInitial}.Seal()}
	case "no-name":
		return [][]byte{quictest.Hello(id, "")}
	case "version-0":
		return [][]byte{{0x80, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1}}
	case "version-unknown":
		return [][]byte{append(binary.BigEndian.AppendUint32([]byte{0xc0}, 0x1a2a3a4a), make([]byte, quictest.MinInitial)...)}
	case "retry":
		return [][]byte{append([]byte{0xf0, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0}, make([]byte, 40)...)}
	case "early-data": // alone it is never whole; with a hello of another name it does not leave
		early := append(append([]byte{0xd0, 0, 0, 0, 1, byte(len(id))}, id...), 0, 0x41, 0x00)
		return [][]byte{append(early, make([]byte, 0x100)...), quictest.Hello(id, denied)}
	case "short-header":
		return [][]byte{{0x40, 1, 2, 3}}
	case "behind-an-allowed-one":
		return [][]byte{good, bad}
	}
	panic(errors.New("quic: no kind " + kind))
}

// datagrams is a UDP socket that is connected and has one option set.
func datagrams(to string, level, option, value int) (net.Conn, syscall.RawConn, error) {
	c, err := net.Dial("udp", to)
	if err != nil {
		return nil, nil, err
	}
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, value) })
		err = errors.Join(cerr, err)
	}
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, raw, nil
}

// segmentsOp sends ten datagrams in one call, as QUIC clients do (UDP_SEGMENT),
// and counts what an echo server gives back: segments ADDR:PORT.
func segmentsOp(args []string) {
	const size, n = 1200, 10
	attempt("segments", args[0], func() (string, error) {
		c, _, err := datagrams(args[0], unix.IPPROTO_UDP, unix.UDP_SEGMENT, size)
		if err != nil {
			return "", err
		}
		defer c.Close()
		if _, err := c.Write(make([]byte, n*size)); err != nil {
			return "", err
		}
		got := 0
		for b := make([]byte, 1<<16); got < n; got++ {
			c.SetReadDeadline(time.Now().Add(wait))
			if k, err := c.Read(b); err != nil || k != size {
				return fmt.Sprint(got, " whole, then ", k), err
			}
		}
		return fmt.Sprintf("%d of %d", got, size), nil
	})
}

// toobigOp says a whole ClientHello over QUIC and then sends datagrams of SIZE
// octets that must not be cut up, as a client does that measures its path, until
// its kernel has heard that they are too large; it tells the width that the
// kernel then knows: toobig ADDR:PORT NAME SIZE
func toobigOp(args []string) {
	attempt("toobig", args[0], func() (string, error) {
		size, err := strconv.Atoi(args[2])
		if err != nil {
			return "", err
		}
		to, err := netip.ParseAddrPort(args[0])
		if err != nil {
			return "", err
		}
		level, discover, width := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_MTU
		if to.Addr().Is6() {
			level, discover, width = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_MTU
		}
		c, raw, err := datagrams(args[0], level, discover, unix.IP_PMTUDISC_DO)
		if err != nil {
			return "", err
		}
		defer c.Close()
		if _, err := c.Write(quictest.Hello([]byte("12345678"), args[1])); err != nil {
			return "", err
		}
		short := append([]byte{0x40}, make([]byte, size-1)...)
		for end := time.Now().Add(wait); err == nil && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			_, err = c.Write(short)
		}
		if !errors.Is(err, unix.EMSGSIZE) {
			return "nobody told", err
		}
		mtu := 0
		cerr := raw.Control(func(fd uintptr) { mtu, err = unix.GetsockoptInt(int(fd), level, width) })
		return fmt.Sprint(mtu), errors.Join(cerr, err)
	})
}
