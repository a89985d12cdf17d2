package view

import (
	"slices"
	"strings"
)

// EnvOptions say how the agent's environment differs from the caller's.
type EnvOptions struct {
	// Proxy is the explicit proxy as a URL; "" sets no proxy variables.
	Proxy string
	// User, when set, replaces HOME, USER and LOGNAME: the agent of real root
	// is someone else.
	User *User
	// Set is -e: K=V sets, K alone brings the caller's variable back.
	Set []string
}

// A User is whose environment the agent gets.
type User struct{ Name, Home string }

// defaultPath is what execvp takes where PATH is not set (confstr _CS_PATH).
const defaultPath = "/bin:/usr/bin"

// CleanEnv returns the agent's environment: the caller's without the variables
// that lead to sockets, terminals, displays and proxies of the host, with the
// session's own proxy in both cases of its names, and BinDir on PATH. Of a
// variable that is given twice the first counts, as for getenv.
func CleanEnv(env []string, o EnvOptions) []string {
	var e environ
	for _, kv := range env {
		k, v, ok := strings.Cut(kv, "=")
		if ok && k != "" && !leads(k) && !e.has(k) {
			e.set(k, v)
		}
	}
	if o.User != nil {
		e.set("HOME", o.User.Home)
		e.set("USER", o.User.Name)
		e.set("LOGNAME", o.User.Name)
	}
	if o.Proxy != "" {
		for _, k := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
			e.set(k, o.Proxy)
			e.set(strings.ToLower(k), o.Proxy)
		}
		e.set("NO_PROXY", "localhost,127.0.0.1,::1")
		e.set("no_proxy", "localhost,127.0.0.1,::1")
	}
	e.path()
	for _, kv := range o.Set {
		if k, v, ok := strings.Cut(kv, "="); ok {
			e.set(k, v)
		} else if v, ok := lookup(env, k); ok {
			e.set(k, v)
		}
	}
	return e
}

// leads reports whether a variable tells the way to something of the host's.
func leads(k string) bool {
	if strings.HasSuffix(strings.ToUpper(k), "_PROXY") || strings.HasSuffix(k, "_SOCK") || strings.HasSuffix(k, "_SOCKET") {
		return true
	}
	if strings.HasPrefix(k, "DBUS_") || strings.HasPrefix(k, "VSCODE_") {
		return true
	}
	return slices.Contains([]string{"TMUX", "STY", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY"}, k)
}

type environ []string

func (e environ) index(k string) int {
	return slices.IndexFunc(e, func(kv string) bool { return strings.HasPrefix(kv, k+"=") })
}

func (e environ) has(k string) bool { return e.index(k) >= 0 }

func (e *environ) set(k, v string) {
	if i := e.index(k); i >= 0 {
		(*e)[i] = k + "=" + v
		return
	}
	*e = append(*e, k+"="+v)
}

// path puts BinDir last, so that it shadows nothing.
func (e *environ) path() {
	p, ok := lookup(*e, "PATH")
	if !ok || p == "" {
		p = defaultPath
	}
	if !slices.Contains(strings.Split(p, ":"), BinDir) {
		p += ":" + BinDir
	}
	e.set("PATH", p)
}

func lookup(env []string, k string) (string, bool) {
	for _, kv := range env {
		if key, v, ok := strings.Cut(kv, "="); ok && key == k {
			return v, true
		}
	}
	return "", false
}
