package hostapi

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
)

func get[T any](ctx context.Context, c *Client, path string) (out T, err error) {
	err = c.Call(ctx, http.MethodGet, path, nil, &out)
	return out, err
}

func post[T any](ctx context.Context, c *Client, path string, in any) (out T, err error) {
	err = c.Call(ctx, http.MethodPost, path, in, &out)
	return out, err
}

// The calls below are the routes of the same name, see Backend.

// Session tells who and what runs.
func (c *Client) Session(ctx context.Context) (Session, error) {
	return get[Session](ctx, c, "/session")
}

// Bridge tells the state of the link and the table.
func (c *Client) Bridge(ctx context.Context) (Bridge, error) { return get[Bridge](ctx, c, "/bridge") }

// BridgeUp sets the link up again.
func (c *Client) BridgeUp(ctx context.Context) error {
	return c.Call(ctx, http.MethodPost, "/bridge/up", nil, nil)
}

// BridgeDown removes the link, and with it all egress.
func (c *Client) BridgeDown(ctx context.Context) error {
	return c.Call(ctx, http.MethodPost, "/bridge/down", nil, nil)
}

// NFT returns the kernel's table as text.
func (c *Client) NFT(ctx context.Context) (string, error) {
	n, err := get[NFT](ctx, c, "/bridge/nft")
	return n.Text, err
}

// Rules lists the loaded rules in the order in which they are asked.
func (c *Client) Rules(ctx context.Context) ([]Rule, error) { return get[[]Rule](ctx, c, "/rules") }

// Rule returns one rule.
func (c *Client) Rule(ctx context.Context, id string) (RuleDetail, error) {
	return get[RuleDetail](ctx, c, "/rules/"+url.PathEscape(id))
}

// Counters returns what the rules have decided so far.
func (c *Client) Counters(ctx context.Context) (Counters, error) {
	return get[Counters](ctx, c, "/rules/counters")
}

// Reload reads the rule files anew; with dryRun they are only checked.
func (c *Client) Reload(ctx context.Context, dryRun bool) (Reload, error) {
	path := "/rules/reload"
	if dryRun {
		path += "?dry_run=true"
	}
	return post[Reload](ctx, c, path, nil)
}

// Active lists live pins and grants.
func (c *Client) Active(ctx context.Context) ([]Active, error) {
	return get[[]Active](ctx, c, "/rules/active")
}

// FlushActive removes live pins and grants.
func (c *Client) FlushActive(ctx context.Context) (Flushed, error) {
	return post[Flushed](ctx, c, "/rules/flush", nil)
}

// Explain returns the session's explanation of a target as JSON.
func (c *Client) Explain(ctx context.Context, r ExplainRequest) (json.RawMessage, error) {
	return post[json.RawMessage](ctx, c, "/explain", r)
}

// DNS tells the state of the DNS filter.
func (c *Client) DNS(ctx context.Context) (DNS, error) { return get[DNS](ctx, c, "/dns") }

// DNSCache returns the cache's numbers, with entries also its content.
func (c *Client) DNSCache(ctx context.Context, entries bool) (DNSCache, error) {
	if entries {
		return get[DNSCache](ctx, c, "/dns/cache?entries=true")
	}
	return get[DNSCache](ctx, c, "/dns/cache")
}

// DNSFlush empties the cache.
func (c *Client) DNSFlush(ctx context.Context) (Flushed, error) {
	return post[Flushed](ctx, c, "/dns/cache/flush", nil)
}

// DNSTest asks a question as the command would.
func (c *Client) DNSTest(ctx context.Context, r DNSTestRequest) (DNSTest, error) {
	return post[DNSTest](ctx, c, "/dns/test", r)
}

// Proxy tells the state of the HTTP proxy.
func (c *Client) Proxy(ctx context.Context) (Proxy, error) { return get[Proxy](ctx, c, "/proxy") }

// Flows lists the live flows.
func (c *Client) Flows(ctx context.Context) ([]Flow, error) { return get[[]Flow](ctx, c, "/flows") }

// KillFlow closes one flow.
func (c *Client) KillFlow(ctx context.Context, id string) error {
	return c.Call(ctx, http.MethodDelete, "/flows/"+url.PathEscape(id), nil, nil)
}

// Stop ends the session.
func (c *Client) Stop(ctx context.Context) error {
	return c.Call(ctx, http.MethodPost, "/stop", nil, nil)
}
