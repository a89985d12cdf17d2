package policy

import "testing"

// --no-proxy refuses rules that say mode: proxy; a rule that only binds ports
// says no mode, and holds on every way.
func TestEgressTellsWhatIsWritten(t *testing.T) {
	for egress, want := range map[string]bool{
		"ports: [443]": false, "allow_private_ips: true": false, "mode: proxy": true, "mode: proxy, ports: [443]": true, "mode: direct_ip": true,
	} {
		r := rules(t, `allow dns.query == "a.test" @ `+egress).Rules()[0]
		if r.Egress != want {
			t.Errorf("{%s}: mode written %v, want %v", egress, r.Egress, want)
		}
	}
}
