package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"
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

// urgentOp sends parts, those behind a "!" as urgent data, and reads until the
// other side has no more for a moment; what comes as urgent data it does not see:
// urgent ADDR:PORT [!]HEX...
func urgentOp(args []string) {
	attempt("urgent", args[0], func() (string, error) {
		c, err := net.DialTimeout("tcp", args[0], wait)
		if err != nil {
			return "", err
		}
		defer c.Close()
		for _, a := range args[1:] {
			b, err := hex.DecodeString(strings.TrimPrefix(a, "!"))
			if err != nil {
				return "", err
			}
			if a[0] == '!' {
				err = sendUrgent(c, b)
			} else {
				_, err = c.Write(b)
			}
			if err != nil {
				return "", err
			}
		}
		c.SetReadDeadline(time.Now().Add(wait / 3))
		b, err := io.ReadAll(io.LimitReader(c, 4096))
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			err = nil
		}
		return string(b), err
	})
}

func sendUrgent(c net.Conn, b []byte) error {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = unix.Sendto(int(fd), b, unix.MSG_OOB, nil) })
	return errors.Join(cerr, err)
}
