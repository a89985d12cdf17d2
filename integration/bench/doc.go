// Package bench measures the whole program against its neighbours in one run:
// a start against bubblewrap's, one TCP stream and small HTTPS requests
// against the same without a sandbox and through slirp4netns. It is no test:
// nothing fails for being slow, and only ratios of one run mean anything. A
// neighbour that cannot be measured here is named with the reason.
package bench
