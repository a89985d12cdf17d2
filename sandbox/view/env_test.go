package view

import (
	"slices"
	"testing"
)

func TestCleanEnv(t *testing.T) {
	host := []string{
		"HOME=/h", "USER=u", "PATH=/bin", "HTTP_PROXY=x", "https_proxy=y", "Ftp_Proxy=z", "NO_PROXY=*", "SSH_AUTH_SOCK=/s",
		"A_SOCKET=1", "TMUX=1", "STY=1", "DBUS_SESSION_BUS_ADDRESS=1", "DISPLAY=:0", "WAYLAND_DISPLAY=w", "XAUTHORITY=a",
		"VSCODE_IPC_HOOK=1", "TERM=xterm", "E=", "HOME=/second", "=bad", "nonsense", "XDG_RUNTIME_DIR=/run/user/1",
	}
	for _, c := range []struct {
		name string
		o    EnvOptions
		want []string
	}{
		{"no proxy", EnvOptions{}, []string{"HOME=/h", "USER=u", "PATH=/bin:/run/outcall/bin", "TERM=xterm", "E=", "XDG_RUNTIME_DIR=/run/user/1"}},
		{"proxy, brought back, other user", EnvOptions{Proxy: "http://10.200.0.1:8080", User: &User{"nobody", "/n"}, Set: []string{"SSH_AUTH_SOCK", "MISSING", "NEW=1", "ALL_PROXY=mine"}}, []string{
			"HOME=/n", "USER=nobody", "PATH=/bin:/run/outcall/bin", "TERM=xterm", "E=", "XDG_RUNTIME_DIR=/run/user/1", "LOGNAME=nobody",
			"HTTP_PROXY=http://10.200.0.1:8080", "http_proxy=http://10.200.0.1:8080", "HTTPS_PROXY=http://10.200.0.1:8080", "https_proxy=http://10.200.0.1:8080",
			"ALL_PROXY=mine", "all_proxy=http://10.200.0.1:8080", "NO_PROXY=localhost,127.0.0.1,::1", "no_proxy=localhost,127.0.0.1,::1", "SSH_AUTH_SOCK=/s", "NEW=1",
		}},
	} {
		got := CleanEnv(host, c.o)
		slices.Sort(got)
		slices.Sort(c.want)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s:\n got %q\nwant %q", c.name, got, c.want)
		}
	}
	if got := CleanEnv(nil, EnvOptions{}); !slices.Equal(got, []string{"PATH=/bin:/usr/bin:/run/outcall/bin"}) {
		t.Errorf("empty: %q", got)
	}
}

func FuzzMountinfo(f *testing.F) {
	f.Add([]byte("22 27 0:21 / /proc rw,relatime shared:1 - proc proc rw\n"))
	f.Add([]byte(`1 0 8:1 /a\040b /c\134\012 rw - ext4 /dev/x rw`))
	f.Fuzz(func(t *testing.T, data []byte) {
		table, err := parseMounts(data)
		if err != nil {
			return
		}
		for _, m := range table {
			if at, ok := locate(table, m.point); ok {
				at.paths(table)
			}
		}
	})
}

func FuzzUnixTable(f *testing.F) {
	f.Add([]byte("Num       RefCount Protocol Flags    Type St Inode Path\n0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/a b\n"))
	f.Add([]byte("x: 0 0 0 1 1 5 @abstract\nx: 0 0 0 1 1 6 rel/name\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		n := parseUnix(data)
		for _, p := range n.abs {
			if p[0] != '/' {
				t.Errorf("%q", p)
			}
		}
		for _, p := range n.rel {
			if p == "" || p[0] == '/' || p[0] == '@' {
				t.Errorf("%q", p)
			}
		}
	})
}
