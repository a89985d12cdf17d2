package view

import (
	"net/netip"
	"strings"
)

func resolvText(servers []netip.Addr) string {
	var b strings.Builder
	for _, a := range servers {
		b.WriteString("nameserver " + a.String() + "\n")
	}
	b.WriteString("options ndots:0\n")
	return b.String()
}

func hostsText(name string) string {
	own := ""
	if name != "" && name != "localhost" {
		own = " " + name
	}
	return "127.0.0.1 localhost" + own + "\n::1 localhost ip6-localhost ip6-loopback" + own + "\n"
}
