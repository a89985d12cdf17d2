// Package preset holds rule files for well-known services, each with the date
// of its hosts and where they are documented. A preset is an ordinary rule
// file: `outcall rules show preset:NAME` prints it, --allow preset:NAME loads
// it, and who wants less saves it and takes lines out.
//
// Hosts are named one by one. A name that everybody can have a place below is
// never opened as a whole.
package preset

import (
	"embed"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
)

//go:embed files/*.yaml
var files embed.FS

// Prefix begins a preset's name where other things could be named, too.
const Prefix = "preset:"

// Names returns the names of all presets, sorted.
func Names() []string {
	entries, err := files.ReadDir("files")
	if err != nil {
		return nil // an embedded directory that exists can be read
	}
	var out []string
	for _, e := range entries {
		out = append(out, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	slices.Sort(out)
	return out
}

// Text returns the rule file of a preset. The name has no prefix.
func Text(name string) ([]byte, error) {
	if !slices.Contains(Names(), name) {
		return nil, fmt.Errorf("there is no preset %q: there are %s", name, strings.Join(Names(), ", "))
	}
	return files.ReadFile("files/" + name + ".yaml")
}

// A Host is one host that a preset allows, with the ports.
type Host struct {
	Name  string
	Ports []string
}

// hostRule finds the host and the ports of each rule: in these files every
// rule is written alike, which a test holds.
var hostRule = regexp.MustCompile(`condition: 'dns\.query == "([^"]+)" .*\n    action: allow\n    egress: \{ports: \[([0-9, ]+)\]\}`)

// Hosts returns the hosts that a preset allows, in the order of its file.
func Hosts(name string) ([]Host, error) {
	text, err := Text(name)
	if err != nil {
		return nil, err
	}
	var out []Host
	for _, m := range hostRule.FindAllSubmatch(text, -1) {
		out = append(out, Host{string(m[1]), strings.Split(string(m[2]), ", ")})
	}
	return out, nil
}

// holders are the presets of each host, by host and by host:port.
var holders = sync.OnceValue(func() map[string]string {
	out := map[string]string{}
	for _, name := range Names() {
		hosts, err := Hosts(name)
		if err != nil {
			continue // Names has it, so Text has it
		}
		for _, h := range hosts {
			out[h.Name] = name
			for _, p := range h.Ports {
				out[h.Name+":"+p] = name
			}
		}
	}
	return out
})

// Holding returns the name of the preset that allows a host at a port, "" if
// none does. The host is lower case, without trailing dot; port "" asks for
// the host at any.
func Holding(host, port string) string {
	if port != "" {
		host += ":" + port
	}
	return holders()[host]
}
