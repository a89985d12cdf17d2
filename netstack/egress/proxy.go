package egress

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"time"

	"outcall/netstack/httphead"
)

// errRefused means that the proxy is there and will not connect to this
// target; another form of the target may be taken.
var errRefused = errors.New("the proxy refused the target")

// viaProxy asks for the judged address, and for the name where the proxy
// refuses addresses, or where no address exists. Once a proxy has taken a name
// after it had refused the address, names are asked for at once.
func (d *Dialer) viaProxy(ctx context.Context, name string, dst netip.AddrPort) (*Conn, error) {
	noAddr := synthetic.Contains(dst.Addr())
	if noAddr && name == "" {
		return nil, &Error{Kind: Forbidden, Addr: dst, Err: errForbidden}
	}
	if !noAddr && (name == "" || !d.byName.Load()) {
		c, err := d.ask(ctx, dst.Addr().String(), dst)
		if err == nil {
			c.Via = Proxied
			return c, nil
		}
		if name == "" || !errors.Is(err, errRefused) {
			return nil, err
		}
	}
	c, err := d.ask(ctx, name, dst)
	if err != nil {
		return nil, err
	}
	if !noAddr {
		d.byName.Store(true)
	}
	c.Via = ByProxy
	return c, nil
}

// ask opens one connection to the proxy and asks it for host at dst's port.
func (d *Dialer) ask(ctx context.Context, host string, dst netip.AddrPort) (*Conn, error) {
	fail := func(err error) (*Conn, error) {
		return nil, &Error{Kind: Proxy, Addr: dst, Err: fmt.Errorf("upstream proxy %s: %w", d.cfg.Proxy.Redacted(), err)}
	}
	port := d.cfg.Proxy.Port()
	if port == "" {
		port = map[string]string{"http": "80"}[d.cfg.Proxy.Scheme]
		if port == "" {
			port = "1080" // RFC 1928 section 3
		}
	}
	nc, err := d.net.DialContext(ctx, "tcp", net.JoinHostPort(d.cfg.Proxy.Hostname(), port))
	if err != nil {
		return fail(err)
	}
	c := Wrap(nc.(*net.TCPConn))
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	if d.cfg.Proxy.Scheme == "http" {
		err = d.askHTTP(c, host, dst.Port())
	} else {
		err = d.askSOCKS(c, host, dst.Port())
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = c.Close() // the first error is the one to tell
		return fail(err)
	}
	return c, nil
}

// askHTTP sends a CONNECT (RFC 9110 section 9.3.6).
func (d *Dialer) askHTTP(c *Conn, host string, port uint16) error {
	target := net.JoinHostPort(host, strconv.Itoa(int(port)))
	req := "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n"
	if u := d.cfg.Proxy.User; u != nil {
		pw, _ := u.Password()
		req += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+pw)) + "\r\n"
	}
	if _, err := io.WriteString(c, req+"\r\n"); err != nil {
		return err
	}
	buf := make([]byte, 0, 4096)
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, make([]byte, len(buf))...)[:len(buf)]
		}
		n, err := c.TCPConn.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		resp, used, perr := httphead.ParseResponse(buf, "CONNECT")
		switch {
		case perr == nil && resp.Status/100 == 1:
			buf = buf[:copy(buf, buf[used:])]
		case perr == nil && resp.Status/100 == 2:
			c.early = buf[used:]
			return nil
		case perr == nil && resp.Status/100 == 4 && resp.Status != 407:
			return fmt.Errorf("%w: %d %q", errRefused, resp.Status, resp.Reason)
		case perr == nil:
			return fmt.Errorf("answer %d %q", resp.Status, resp.Reason)
		case !errors.Is(perr, httphead.ErrShort):
			return perr
		case err != nil:
			return err
		}
	}
}

// askSOCKS speaks SOCKS 5 (RFC 1928) with a user name (RFC 1929) if given.
func (d *Dialer) askSOCKS(c *Conn, host string, port uint16) error {
	greeting := []byte{5, 1, 0}
	if d.cfg.Proxy.User != nil {
		greeting = []byte{5, 2, 0, 2}
	}
	ans := make([]byte, 2)
	if err := exchange(c, greeting, ans); err != nil {
		return err
	}
	switch {
	case ans[0] != 5:
		return errors.New("not a SOCKS 5 proxy")
	case ans[1] == 2 && d.cfg.Proxy.User != nil:
		pw, _ := d.cfg.Proxy.User.Password()
		user := d.cfg.Proxy.User.Username()
		if len(user) > 255 || len(pw) > 255 {
			return errors.New("user name or password longer than 255 octets")
		}
		msg := append([]byte{1, byte(len(user))}, user...)
		msg = append(append(msg, byte(len(pw))), pw...)
		if err := exchange(c, msg, ans); err != nil {
			return err
		}
		if ans[1] != 0 {
			return errors.New("user name or password not taken")
		}
	case ans[1] != 0:
		return errors.New("no authentication method in common")
	}
	return socksConnect(c, host, port)
}

func exchange(c *Conn, msg, ans []byte) error {
	if _, err := c.Write(msg); err != nil {
		return err
	}
	_, err := io.ReadFull(c.TCPConn, ans)
	return err
}

// socksReplies are the answers of RFC 1928 section 6.
var socksReplies = map[byte]string{
	1: "general failure", 2: "not allowed by its rules", 3: "network unreachable", 4: "host unreachable",
	5: "connection refused", 6: "TTL expired", 7: "command not supported", 8: "address type not supported",
}

func socksConnect(c *Conn, host string, port uint16) error {
	msg := []byte{5, 1, 0}
	if a, err := netip.ParseAddr(host); err == nil {
		typ := byte(1)
		if a.Is6() {
			typ = 4
		}
		msg = append(append(msg, typ), a.AsSlice()...)
	} else {
		msg = append(append(msg, 3, byte(len(host))), host...) // names have at most 253 octets
	}
	ans := make([]byte, 4)
	if err := exchange(c, append(msg, byte(port>>8), byte(port)), ans); err != nil {
		return err
	}
	if ans[1] == 2 || ans[1] == 8 {
		return fmt.Errorf("%w: %s", errRefused, socksReplies[ans[1]])
	}
	if ans[1] != 0 {
		return fmt.Errorf("answer %d: %s", ans[1], socksReplies[ans[1]])
	}
	rest := map[byte]int{1: 4, 4: 16}[ans[3]]
	if ans[3] == 3 {
		var l [1]byte
		if _, err := io.ReadFull(c.TCPConn, l[:]); err != nil {
			return err
		}
		rest = int(l[0])
	} else if rest == 0 {
		return errors.New("malformed SOCKS answer")
	}
	_, err := io.ReadFull(c.TCPConn, make([]byte, rest+2))
	return err
}
