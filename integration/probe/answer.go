package main

import (
	"fmt"
	"io"
	"net"
)

// answerOp stands on an address until it is ended, and echoes what each
// connection says, or resets it; it tells how each one ended:
// answer [reset] ADDR:PORT
func answerOp(args []string) {
	reset := args[0] == "reset"
	to := args[len(args)-1]
	ln, err := net.Listen("tcp", to)
	if err != nil {
		attempt("answer", to, func() (string, error) { return "", err })
		return
	}
	fmt.Println("answering", to)
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			if reset {
				c.Read(make([]byte, 1))
				c.(*net.TCPConn).SetLinger(0)
				return
			}
			n, err := io.Copy(c, c)
			attempt("answered", to, func() (string, error) { return fmt.Sprint(n), err })
		}()
	}
}
