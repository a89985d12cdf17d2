package main

import (
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// dnsOp asks one server: dns udp|tcp SERVER:PORT TYPE NAME...
// Data is "RCODE addresses… ede=CODE:TEXT".
func dnsOp(args []string) {
	for _, name := range args[3:] {
		attempt("dns", name, func() (string, error) {
			m := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.StringToType[args[2]])
			m.SetEdns0(1232, false)
			c := dns.Client{Net: args[0], Timeout: wait}
			r, _, err := c.Exchange(m, args[1])
			if err != nil {
				return "", err
			}
			return describe(r), nil
		})
	}
}

func describe(r *dns.Msg) string {
	words := []string{dns.RcodeToString[r.Rcode]}
	for _, rr := range r.Answer {
		f := strings.Fields(rr.String())
		words = append(words, f[3]+"="+strings.Join(f[4:], " "))
	}
	if o := r.IsEdns0(); o != nil {
		for _, opt := range o.Option {
			if e, ok := opt.(*dns.EDNS0_EDE); ok {
				words = append(words, fmt.Sprintf("ede=%d:%s", e.InfoCode, e.ExtraText))
			}
		}
	}
	return strings.Join(words, " ")
}

// sweepOp asks count questions for distinct names as fast as it can:
// sweep SERVER:PORT COUNT SUFFIX. Data is the number sent and answered.
func sweepOp(args []string) {
	attempt("sweep", args[2], func() (string, error) {
		var count int
		if _, err := fmt.Sscan(args[1], &count); err != nil {
			return "", err
		}
		c, err := dns.Dial("udp", args[0])
		if err != nil {
			return "", err
		}
		defer c.Close()
		answered := make(chan int)
		go func() {
			n := 0
			for n < count {
				c.SetReadDeadline(time.Now().Add(wait))
				if _, err := c.ReadMsg(); err != nil {
					break
				}
				n++
			}
			answered <- n
		}()
		for i := range count {
			m := new(dns.Msg).SetQuestion(fmt.Sprintf("s%d.%s.", i, args[2]), dns.TypeA)
			if err := c.WriteMsg(m); err != nil {
				return "", err
			}
		}
		return fmt.Sprintf("sent %d answered %d", count, <-answered), nil
	})
}

// dnsrawOp sends prepared messages, each over a UDP socket of its own, and
// tells the answers: dnsraw SERVER:PORT HEX...
func dnsrawOp(args []string) {
	for _, msg := range args[1:] {
		attempt("dnsraw", msg, func() (string, error) {
			b, err := hex.DecodeString(msg)
			if err != nil {
				return "", err
			}
			c, err := net.Dial("udp", args[0])
			if err != nil {
				return "", err
			}
			defer c.Close()
			if _, err := c.Write(b); err != nil {
				return "", err
			}
			c.SetReadDeadline(time.Now().Add(wait))
			answer := make([]byte, 4096)
			n, err := c.Read(answer)
			if err != nil {
				return "", err
			}
			m := new(dns.Msg)
			if err := m.Unpack(answer[:n]); err != nil {
				return "", err
			}
			return describe(m), nil
		})
	}
}

// dnspipeOp sends prepared messages at once over one TCP connection and counts
// the answers: dnspipe SERVER:PORT COUNT HEX
func dnspipeOp(args []string) {
	attempt("dnspipe", args[0], func() (string, error) {
		b, err := hex.DecodeString(args[2])
		if err != nil {
			return "", err
		}
		c, err := dns.DialTimeout("tcp", args[0], wait)
		if err != nil {
			return "", err
		}
		defer c.Close()
		if _, err := c.Conn.Write(b); err != nil {
			return "", err
		}
		n := 0
		for ; fmt.Sprint(n) != args[1]; n++ {
			c.SetReadDeadline(time.Now().Add(wait))
			if _, err := c.ReadMsg(); err != nil {
				return fmt.Sprint("answered ", n), err
			}
		}
		return fmt.Sprint("answered ", n), nil
	})
}
