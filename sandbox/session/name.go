package session

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
)

// MaxName is the length of the longest name.
const MaxName = 64

// CheckName tells whether a name is [A-Za-z0-9._-]{1,64}. "." and ".." are
// refused, too: the name becomes a directory.
func CheckName(name string) error {
	switch {
	case name == "" || len(name) > MaxName:
		return fmt.Errorf("session name %.70q: want 1 to %d characters", name, MaxName)
	case name == "." || name == "..":
		return fmt.Errorf("session name %q is a directory", name)
	case strings.IndexFunc(name, notName) >= 0:
		return fmt.Errorf("session name %q: want only letters, digits, '.', '_' and '-'", name)
	}
	return nil
}

func notName(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '_' && r != '-'
}

// suffixLen is the length of "-" letter and three hexadecimal digits.
const suffixLen = 5

// DefaultName is <command>-<letter><3 hex>, random each time.
func DefaultName(argv0 string) string {
	var b [3]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	base := baseName(argv0)
	if len(base) > MaxName-suffixLen {
		base = base[:MaxName-suffixLen]
	}
	return base + "-" + string('a'+rune(b[0])%26) + hex.EncodeToString(b[1:])[:3]
}

// baseName is the command's base name with what a name cannot hold replaced.
func baseName(argv0 string) string {
	base := filepath.Base(argv0)
	base = strings.Map(func(r rune) rune {
		if notName(r) {
			return '_'
		}
		return r
	}, base)
	if base == "." || base == ".." || argv0 == "" || base == "_" {
		return "command"
	}
	return base
}

// AgentName is agent.name: the given session name without one trailing
// -<digits> (so that agents numbered by their operator share rules); without
// a given name the command's base name.
func AgentName(given, argv0 string) string {
	if given == "" {
		return baseName(argv0)
	}
	i := strings.LastIndexByte(given, '-')
	if i <= 0 || i == len(given)-1 || strings.Trim(given[i+1:], "0123456789") != "" {
		return given
	}
	return given[:i]
}
