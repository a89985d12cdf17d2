// Package bench measures the whole program against its neighbours in one run:
// a start against bubblewrap's; one TCP stream each way, the same as HTTP, and
// small HTTPS requests, each on a connection of its own, against the same
// without a sandbox, through a relay between two kernel sockets (what any relay
// in user space costs at least) and through slirp4netns. It is no test: nothing
// fails for being slow, and only ratios of one run mean anything. A neighbour
// that cannot be measured ends the run with the reason.
package bench
