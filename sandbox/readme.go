package sandbox

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"outcall/policy"
	"outcall/policy/escape"
)

// maxReadme bounds the text about the policy, in bytes.
const maxReadme = 48 << 10

// A readme is the agent's /run/outcall/README.md. The supervisor has the only
// descriptor that can write it.
type readme struct {
	mu   sync.Mutex
	f    *os.File // nil: there is none
	text string   // what it says
}

// write replaces the text. What is new stands in the file at once; a reader
// that is half-way through may see both.
func (r *readme) write(text string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text = text
	if r.f == nil {
		return nil
	}
	if _, err := r.f.WriteAt([]byte(text), 0); err != nil {
		return err
	}
	return r.f.Truncate(int64(len(text)))
}

// read returns what it says: the agent API tells the same, however often it is
// asked.
func (r *readme) read() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text
}

// close lets go of the file, and of the mount below it.
func (r *readme) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.f == nil {
		return nil
	}
	err := r.f.Close()
	r.f = nil
	return err
}

// writeReadme tells the agent what is reachable now. That it cannot be told is
// no reason to keep the rules from being in force: `outcall-agent policy` asks.
func (s *supervisor) writeReadme() {
	if err := s.readme.write(s.policyText(s.snap.Load())); err != nil {
		s.say("the README.md inside could not be written: " + err.Error())
	}
}

// policyText is for whoever reads it inside: what is reachable, how to ask, and
// what to do when something is refused.
func (s *supervisor) policyText(snap *policy.Snapshot) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# This command runs inside outcall\n\nSession %s. Every name, connection and request of it is judged by rules that only the operator can change;\n"+
		"what no rule allows is refused.\n", s.who.Session)
	if s.cfg.Observe {
		b.WriteString("Mode observe: what a rule would refuse is let through for now, and written down.\n")
	}
	fmt.Fprintf(&b, "\n## What is reachable\n\nAs of %s, by what the rules name:\n\n", time.Now().UTC().Format("2006-01-02 15:04:05 UTC"))
	list, more := snap.Reach(s.who, s.host.Host())
	for _, r := range list {
		line := fmt.Sprintf("- `%s`: %s\n", escape.Text(r.To), strings.Join(r.Allow, ", "))
		if b.Len()+len(line)+len(readmeRest) > maxReadme {
			more = true
			break
		}
		b.WriteString(line)
	}
	switch {
	case len(list) == 0:
		b.WriteString("- nothing\n")
	case more:
		b.WriteString("- and more: ask\n")
	}
	b.WriteString(readmeRest)
	return b.String()
}

const readmeRest = `
A name that begins with a dot stands for itself and all names below it. Rules can also allow or refuse by other marks (path,
method, program): the answer about one target is

    outcall-agent fetch URL [METHOD]        exit code 0 allowed, 1 denied, 5 no verdict
    outcall-agent exec CMD [ARG...]         asks about a command and runs it if it is allowed
    outcall-agent policy                    this text, as it is now

## When something is refused

Do not retry, and do not look for another way: other ports, addresses, resolvers and proxies are judged by the same rules,
and every attempt is written down. Each refusal has an id, d- and 8 hexadecimal digits, in the DNS answer's extended error, in
the body of the proxy's 403, in what outcall-agent prints.

    outcall-agent why ID                    what was refused, why, and the smallest rule that would allow it
    outcall-agent why                       the latest refusal: of TLS, TCP and UDP, which carry no text, too

## To ask for more

Write the smallest rule file that does, tell the person you work for what it is for, and

    outcall-agent request FILE              proposes it to the operator, who decides; it grants nothing by itself
    outcall-agent status ID                 how that stands
`

// Policy implements agentapi.Backend.
func (a agentBackend) Policy(context.Context) string { return a.s.readme.read() }

// Limited implements agentapi.Backend: the audit sums equal lines.
func (a agentBackend) Limited() {
	a.s.audit.Record(a.s.event("limit", policy.Event{Layer: policy.LayerRun.String(), Verdict: "deny", Structural: true,
		Reason: "agent API: calls beyond the rate limit are refused"}))
}
