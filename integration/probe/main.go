// Command probe tries, from inside a sandbox, what a hostile program would
// try. Each attempt prints one JSON line that tells the kernel's answer and
// how long it took; it never fails by itself, since the tests judge.
//
//	probe OPERATION [ARG...]
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// A Line is the outcome of one attempt.
type Line struct {
	Op     string  `json:"op"`
	Target string  `json:"target,omitempty"`
	OK     bool    `json:"ok"`
	Err    string  `json:"err,omitempty"`
	Errno  int     `json:"errno,omitempty"`
	MS     float64 `json:"ms"`
	Data   string  `json:"data,omitempty"`
}

// operations are what probe can do; each prints its lines by report.
var operations = map[string]func(args []string){
	"tcp": tcpOp, "udp": udpOp, "icmp": icmpOp, "raw": rawOp, "tls": tlsOp, "bytes": bytesOp, "get": getOp, "scan": scanOp,
	"flood": floodOp, "cable": cableOp, "idle": idleOp, "await": awaitOp, "hold": holdOp,
	"keep": keepOp, "load": loadOp, "trips": tripsOp, "press": pressOp, "ends": endsOp, "h3": h3Op, "quic": quicOp, "segments": segmentsOp, "toobig": toobigOp, "urgent": urgentOp,
	"dns": dnsOp, "dnsraw": dnsrawOp, "dnspipe": dnspipeOp, "sweep": sweepOp, "ws": wsOp, "answer": answerOp, "connect": connectOp, "serve": serveOp,
	"families": familiesOp, "iouring": iouringOp, "keys": keysOp, "calls": callsOp, "foreign": foreignOp,
	"signal": signalOp, "signals": signalsOp, "tiocsti": tiocstiOp, "crash": crashOp,
	"netadmin": netadminOp, "outer": outerOp, "namespaces": namespacesOp, "look": lookOp,
	"write": writeOp, "replace": replaceOp, "unix": unixOp, "listen": listenOp, "unixgram": unixgramOp,
	"fds": fdsOp, "reconnect": reconnectOp, "reopen": reopenOp, "daemon": daemonOp, "sleep": sleepOp, "dumpable": dumpableOp,
}

func main() {
	if len(os.Args) < 2 || operations[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: probe OPERATION [ARG...]")
		os.Exit(2)
	}
	operations[os.Args[1]](os.Args[2:])
}

// attempt times f and prints its outcome.
func attempt(op, target string, f func() (string, error)) {
	start := time.Now()
	data, err := f()
	l := Line{Op: op, Target: target, OK: err == nil, Data: data, MS: float64(time.Since(start).Microseconds()) / 1000}
	if err != nil {
		l.Err = err.Error()
		var errno syscall.Errno
		if errors.As(err, &errno) {
			l.Errno = int(errno)
		}
	}
	b, _ := json.Marshal(l)
	os.Stdout.Write(append(b, '\n'))
}
