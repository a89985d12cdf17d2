package platform

import (
	"encoding/binary"
	"os"
	"os/signal"
)

var nativeEndian = binary.NativeEndian

func notify(sig os.Signal) <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, sig)
	return c
}
