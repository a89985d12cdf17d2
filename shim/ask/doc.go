// Package ask is the client half of the agent API: it puts one question to the
// session that it runs in and reads one answer.
//
//	c := ask.Client{Socket: ask.DefaultSocket}
//	v, err := c.Check(ctx, ask.Fetch("https://x.test/", "GET"))
//
// An error means that there is no verdict, whatever it was: the caller then
// does nothing, as after a denial, and says that it had no verdict (the
// program's exit code 5). No call is repeated, and none falls back to anything.
//
// A context bounds a whole conversation. The package speaks HTTP/1.1 by itself
// (http.go) rather than through net/http, so that the programs that stand on it
// stay small: they are copied into each session.
package ask
