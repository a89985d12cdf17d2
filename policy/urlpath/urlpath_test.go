package urlpath

import (
	"slices"
	"strings"
	"testing"
)

func TestH3Normal(t *testing.T) {
	for in, want := range map[string]string{
		"/": "/", "/a/b": "/a/b", "//a///b/": "/a/b/", "/%61": "/a", "/a/../b": "/b", "/a/%2e%2e/b": "/b", "/a/.": "/a/", "/a/..": "/",
		"/../x": "/x", "/a%2fb": "/a%2Fb", "/ä": "/%C3%A4", "/a;p=1": "/a;p=1", "/a{}|": "/a%7B%7D%7C", "/%7e": "/~", "/@s%2fp": "/@s%2Fp", "/%25": "/%25",
		"/a b": "/a%20b", "/%3F": "/%3F", "/...": "/...",
		"": "", "x": "", "/%": "", "/%0": "", "/%zz": "", "/%00": "", "/\x00": "", "/a\\b": "", "/%5c": "", "/%c0%af": "", "/..;/x": "", "/.;x/": "", "/#": "",
	} {
		got, err := Normal(in)
		if (err != nil) != (want == "") || got != want {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestH3Readings(t *testing.T) {
	for in, want := range map[string][]string{
		"/a/b": nil, "/a%20b": nil, "/@s%2Fp": {"/@s/p"}, "/admin;x=1": {"/admin"}, "/admin%2Fx": {"/admin/x"},
		"/x%2F..%2Fadmin": {"/admin"}, "/x/%252e%252e/admin": {"/admin"}, "/a;b%2Fc": {"/a", "/a;b/c", "/a/c"},
		"/a%252Fb": {"/a%2Fb", "/a/b"}, "/100%25": nil, "/a%253Db": {"/a%3Db"}, "/%2525%2532": nil,
	} {
		p, err := Normal(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		got := Readings(p)
		if want != nil && !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	for _, bad := range []string{"/%2500", "/x%2F..;%2Fy", "/%255cx", "/%252525252525252525252525252F" + strings.Repeat("%25", 20) + "2F"} {
		if p, err := Normal(bad); err == nil {
			t.Errorf("%q: %q, %q", bad, p, Readings(p))
		}
	}
	for in, want := range map[string]string{"a=%61": "a=a", "a=%20%2f%7e": "a=%20%2f~", "%": "%", "%4": "%4", "a": "a"} {
		if got := Query(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// FuzzNormal: a normal path is its own normal form, and so is each reading.
func FuzzNormal(f *testing.F) {
	for _, s := range []string{"/a/../b", "/x%2f..%2fy", "/a;b/c", "/%252e%252e/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := Normal(s)
		if err != nil {
			return
		}
		for _, r := range append(Readings(p), p) {
			again, err := normal(r)
			if err != nil || again != r || strings.Contains(r+"/", "/../") || strings.Contains(r+"/", "/./") {
				t.Fatalf("%q: %q became %q, %v", s, r, again, err)
			}
		}
	})
}
