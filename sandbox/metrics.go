package sandbox

import (
	"context"

	"outcall/netstack/dnsfilter"
	"outcall/policy"
	"outcall/sandbox/hostapi"
)

// Metrics implements hostapi.Backend. Each number is one that a command shows
// as well: `rules counters`, `dns status`, `dns cache`, `proxy status`, `flows`.
func (b backend) Metrics(ctx context.Context) ([]hostapi.Metric, error) {
	s := b.s
	counters, err := b.Counters(ctx)
	if err != nil {
		return nil, err
	}
	bridge, err := b.Bridge(ctx)
	if err != nil {
		return nil, err
	}
	info := hostapi.Metric{Name: "outcall_info", Help: "The session; its value is always 1."}
	info.Add(1, "session", s.who.Session, "agent", s.who.Agent, "mode", s.mode(), "link", s.linkName, "version", s.cfg.Version)
	verdicts := hostapi.Metric{Name: "outcall_verdicts_total", Help: "Verdicts by layer, as the audit has them."}
	for at, n := range s.counts.bySteps() {
		verdicts.Add(float64(n), "layer", at.layer, "verdict", at.verdict)
	}
	st := s.stack.Stats()
	out := []hostapi.Metric{
		info,
		hostapi.Count("outcall_start_time_seconds", "When the session started, in seconds since 1970.", float64(s.started.UnixMilli())/1000),
		hostapi.Count("outcall_rules", "Rules that are loaded.", len(s.snap.Load().Rules())),
		hostapi.Count("outcall_pins", "Addresses that are bound to a name now.", s.pins.Len()),
		hostapi.Count("outcall_flows", "Flows that are open now.", st.Flows),
		hostapi.Count("outcall_flows_total", "TCP flows that were asked for.", st.Total),
		hostapi.Count("outcall_log_lost_total", "Times that refused packets came faster than they could be read.", s.nflog.Lost()),
		hostapi.Count("outcall_panics_total", "Verdicts that ended in a failure of outcall's own, each a denial.", st.Panics),
		hostapi.Count("outcall_audit_failing", "1 while the audit cannot be written and so everything is denied.", oneIf(s.audit.Err() != nil)),
		hostapi.Count("outcall_bridge_up", "1 while the bridge is up and its table active.", oneIf(bridge.Up && bridge.NftablesActive)),
		hostapi.Count("outcall_proxy_connections", "Connections to the HTTP proxy now.", st.Proxy.Active),
		hostapi.Count("outcall_proxy_requests_total", "Requests to the HTTP proxy.", st.Proxy.Requests),
		hostapi.Count("outcall_proxy_blocked_total", "Requests to the HTTP proxy that it refused.", st.Proxy.Blocked),
		verdicts,
	}
	return append(append(out, ruleMetrics(counters)...), dnsMetrics(s.dns.Stats())...), nil
}

func oneIf(b bool) int {
	if b {
		return 1
	}
	return 0
}

// ruleMetrics are `rules counters`; what no rule matched has the name that it
// has everywhere.
func ruleMetrics(c hostapi.Counters) []hostapi.Metric {
	verdicts := hostapi.Metric{Name: "outcall_rule_verdicts_total", Help: "Verdicts that a rule decided, at every layer."}
	failed := hostapi.Metric{Name: "outcall_rule_failures_total", Help: "Evaluations of a rule that ended in an error or at the cost limit."}
	packets := hostapi.Metric{Name: "outcall_rule_packets_total", Help: "Packets that the kernel's table passed for a rule, or refused for want of one."}
	bytes := hostapi.Metric{Name: "outcall_rule_bytes_total", Help: "Bytes of those packets."}
	for _, r := range append(c.Rules, c.Default) {
		labels := []string{"rule", r.ID, "action", r.Action}
		verdicts.Add(float64(r.Verdicts), labels...)
		packets.Add(float64(r.Packets), labels...)
		bytes.Add(float64(r.Bytes), labels...)
		if r.ID != policy.DefaultPolicy {
			failed.Add(float64(r.Failed), labels...)
		}
	}
	return []hostapi.Metric{verdicts, failed, packets, bytes}
}

func dnsMetrics(st dnsfilter.Stats) []hostapi.Metric {
	queries := hostapi.Metric{Name: "outcall_dns_queries_total", Help: "DNS questions by what became of them."}
	for result, n := range map[string]int64{
		"allowed": st.Allowed, "blocked": st.Blocked, "malformed": st.Malformed, "failed": st.Failed, "dropped": st.Dropped,
	} {
		queries.Add(float64(n), "result", result)
	}
	sent := hostapi.Metric{Name: "outcall_dns_upstream_sent_total", Help: "Questions sent to a resolver of the host."}
	failed := hostapi.Metric{Name: "outcall_dns_upstream_failed_total", Help: "Those that it did not answer."}
	for _, u := range st.Upstreams {
		sent.Add(float64(u.Sent), "upstream", u.Address)
		failed.Add(float64(u.Failed), "upstream", u.Address)
	}
	return []hostapi.Metric{
		queries, sent, failed,
		hostapi.Count("outcall_dns_cache_entries", "Answers in the cache.", st.Cache.Entries),
		hostapi.Count("outcall_dns_cache_hits_total", "Questions that the cache answered.", st.Cache.Hits),
		hostapi.Count("outcall_dns_cache_misses_total", "Questions that it could not answer.", st.Cache.Misses),
		hostapi.Count("outcall_dns_cache_evictions_total", "Answers that made room for others.", st.Cache.Evictions),
	}
}
