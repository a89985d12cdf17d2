package sandbox

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// parseProxy reads a proxy as curl does: a bare host:port is http. Its error
// does not repeat the text, which can hold a password.
func parseProxy(raw string) (*url.URL, error) {
	if !strings.Contains(raw, "://") {
		raw = "http://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("upstream proxy: not a URL")
	}
	if u.Hostname() == "" {
		return nil, fmt.Errorf("upstream proxy %s: no host", u.Redacted())
	}
	return u, nil
}
