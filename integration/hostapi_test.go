package integration

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"outcall/integration/harness"
)

// An api asks a session's host socket as a script would: with curl.
type api struct {
	t    *testing.T
	b    *harness.Bed
	sock string
}

func (a api) start(args ...string) *harness.Proc {
	a.t.Helper()
	path := args[len(args)-1]
	args = append([]string{"-sS", "-N", "--max-time", "20", "--unix-socket", a.sock}, args[:len(args)-1]...)
	return a.b.Start(a.b.Program("curl", append(args, "http://localhost"+path)...))
}

// ask demands an exit code of 0, and that the answer matches.
func (a api) ask(want string, args ...string) string {
	a.t.Helper()
	r := a.start(args...).Wait().Must(a.t, 0)
	if !regexp.MustCompile(want).MatchString(r.Stdout) {
		a.t.Errorf("%v: %s\nwant %s", args, clipped(r.Stdout), want)
	}
	return r.Stdout
}

func clipped(s string) string { return s[:min(len(s), 2000)] }

// The host API of a live session: flows are listed and closed, pins and the
// cache shown and emptied, events followed, numbers read.
func TestHostAPIOfALiveSession(t *testing.T) {
	b := harness.New(t)
	const name = "git.allowed.test"
	echo := port(b.Ports.Echo)
	cmd, session := b.SandboxCommand(append(harness.Allow(name+":"+echo), "--no-proxy"), "sh", "-c",
		harness.Probe+" dns udp 10.200.0.1:53 A denied.test; exec "+harness.Probe+" hold "+name+":"+echo)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := b.Start(cmd)
	p.WaitFor("held")
	a := api{t, b, b.Runtime + "/outcall/" + session + "/host.sock"}
	follow := a.start("/api/v1/events?follow=true")
	sse := a.start("-H", "Accept: text/event-stream", "/api/v1/events?follow=true")
	a.ask(`"name":"`+session+`"`, "/api/v1/session")
	a.ask(`"ok":true,"data":\[\{"id":"cli-1"`, "/api/v1/rules")
	a.ask(`"name":"`+name+`","destination":"[0-9a-f.:]+","protocol":"tcp","port":`+echo+`,"rule":"cli-1"`, "/api/v1/rules/active")
	a.ask(`"running":true,"listen_address":"10.200.0.1"`, "/api/v1/dns")
	a.ask(`"hostname":"`+name+`"`, "/api/v1/dns/cache?entries=true")
	a.ask(`"removed":[1-9]`, "-X", "POST", "/api/v1/dns/cache/flush")
	a.ask(`"entries":0`, "/api/v1/dns/cache")
	a.ask(`"files_loaded":[01],"rules_loaded":1,"warnings":\[\]`, "-X", "POST", "/api/v1/rules/reload")
	metrics := a.ask(`(?m)^outcall_info\{session="`+session+`"`, "/metrics")
	for _, want := range []string{
		`^outcall_flows 1$`, `^outcall_verdicts_total\{layer="dns",verdict="deny"\} 1$`, `^outcall_verdicts_total\{layer="flow",verdict="allow"\} 1$`,
		`^outcall_rule_verdicts_total\{rule="default policy",action="block"\} 1$`, `^outcall_dns_queries_total\{result="blocked"\} 1$`,
		`^# TYPE outcall_flows_total counter$`, `^outcall_audit_failing 0$`, `^outcall_bridge_up 1$`, `^outcall_pins [1-9]`,
	} {
		if !regexp.MustCompile("(?m)" + want).MatchString(metrics) {
			t.Errorf("metrics lack %s:\n%s", want, metrics)
		}
	}
	var flows struct {
		Data []struct{ ID, Protocol, Name string }
	}
	if err := json.Unmarshal([]byte(a.ask(`"ok":true`, "/api/v1/flows")), &flows); err != nil || len(flows.Data) != 1 || flows.Data[0].Name != name {
		t.Fatalf("flows: %v %+v", err, flows)
	}
	a.ask(`"ok":false,"error":"flow not found`, "-X", "DELETE", "/api/v1/flows/d-00000000")
	a.ask(`^{"ok":true}`, "-X", "DELETE", "/api/v1/flows/"+flows.Data[0].ID)
	// A second question about the same one shows that it has gone.
	a.ask(`"data":\[\]`, "/api/v1/flows")
	a.ask(`"removed":[1-9]`, "-X", "POST", "/api/v1/rules/flush")
	a.ask(`"data":\[\]`, "/api/v1/rules/active")
	fmt.Fprintln(in, "anyone?")
	in.Close()
	p.Wait()
	// Both streams end with the session and tell the same, one of them as events.
	lines := strings.Split(strings.TrimSpace(follow.Wait().Must(t, 0).Stdout), "\n")
	events := strings.Split(strings.TrimSpace(sse.Wait().Must(t, 0).Stdout), "\n\n")
	if len(lines) != len(events) || len(lines) < 4 {
		t.Fatalf("%d lines, %d events: %q", len(lines), len(events), lines)
	}
	for i := range lines {
		if !json.Valid([]byte(lines[i])) || events[i] != "data: "+lines[i] {
			t.Errorf("line %d: %s\nevent: %s", i, lines[i], events[i])
		}
	}
	mustContain(t, "the lines", strings.Join(lines, "\n"), `"event":"end"`)
	mustContain(t, "the last line", lines[len(lines)-1], `"event":"stop"`)
}
