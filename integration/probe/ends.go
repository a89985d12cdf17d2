package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// endsOp has one conversation and tells how it ended:
//
//	ends half ADDR:PORT     sends a word and its end, then reads to the end
//	ends listen ADDR:PORT   reads to the end, then sends a word and its end
//	ends reset ADDR:PORT    sends a word, waits for an octet, and breaks off
//	ends unread ADDR:PORT   waits for octets, and closes without reading them
//	ends read ADDR:PORT     sends a word and reads to the end
//	ends late ADDR:PORT     connects, for as long as a client would wait
func endsOp(args []string) {
	how, to := args[0], args[1]
	attempt("ends", how+" "+to, func() (string, error) {
		c, err := net.DialTimeout("tcp", to, 2*wait)
		if err != nil || how == "late" {
			return "", err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(2 * wait))
		t := c.(*net.TCPConn)
		const word = "*word\r\n" // neither HTTP nor TLS
		switch how {
		case "half", "read":
			_, err = io.WriteString(c, word)
			if how == "half" {
				err = errors.Join(err, t.CloseWrite())
			}
			b, rerr := io.ReadAll(c)
			return string(b), errors.Join(err, rerr)
		case "listen":
			b, err := io.ReadAll(c)
			_, werr := io.WriteString(c, word)
			return string(b), errors.Join(err, werr, t.CloseWrite())
		case "reset":
			_, err = io.WriteString(c, word)
			_, rerr := io.ReadFull(c, make([]byte, 1))
			return "", errors.Join(err, rerr, t.SetLinger(0))
		case "unread":
			_, err = io.WriteString(c, word)
			time.Sleep(wait / 6) // until there is something to leave unread
			return "", err
		}
		return "", fmt.Errorf("no such end: %s", how)
	})
}
