package netstack

import (
	"context"
	"fmt"
	"testing"

	"outcall/policy"
)

// slowNames calls meanwhile while it resolves.
type slowNames struct {
	*fakeNames
	meanwhile func()
}

func (n *slowNames) Resolve(ctx context.Context, q Question) (Answer, error) {
	n.meanwhile()
	return n.fakeNames.Resolve(ctx, q)
}

// K15: rules that are replaced while the proxy resolves a name hold for what
// it then dials; and where they are replaced each time, nothing is dialled.
func TestReloadWhileTheProxyResolves(t *testing.T) {
	for what, rounds := range map[string]int{"once": 1, "each time": maxRoutes} {
		for _, head := range []string{"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", "CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\n\r\n"} {
			names := &slowNames{}
			b := newBed(t, rule("a", "allow", allowA), func(c *Config, _ *timeouts) {
				names.fakeNames = c.DNS.(*fakeNames)
				c.DNS = names
			})
			n := 0
			names.meanwhile = func() {
				next := load(t, rule(fmt.Sprintf("a%d", n), "allow", allowA))
				if rounds == 1 {
					next = load(t, rule("gone", "allow", `network.hostname == "b.test"`))
				}
				if n++; n <= rounds {
					b.Reload(t.Context(), b.current(), next)
					b.swap(next)
				}
			}
			srv := b.serve(webServer, ap(shared, 80))
			c, br := b.proxied()
			if code, body, _ := ask(t, c, br, "GET", head); code != 403 {
				t.Errorf("replaced %s: %q: %d %s", what, head, code, body)
			}
			if got := srv.text(); got != "" || len(b.dial.dialed) != 0 {
				t.Errorf("replaced %s: %q arrived, dialled %v", what, got, b.dial.dialed)
			}
			b.log.wait(t, "denial", func(e policy.Event) bool { return e.Verdict == "deny" && e.Host == "a.test" })
		}
	}
}
