package hostapi

import (
	"os"
	"strings"
	"testing"
)

// docs/api.md names every call. In a row a path can be cut to its last words.
func TestEachCallIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, rt := range routes {
		last := rt.path[strings.LastIndex(rt.path, "/"):]
		if !strings.Contains(string(page), rt.path+"`") && !strings.Contains(string(page), rt.path+"[") && !strings.Contains(string(page), last+"`") {
			t.Errorf("docs/api.md does not name %s %s", rt.method, rt.path)
		}
	}
}
