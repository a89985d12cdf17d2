// Package world is a small internet for tests and benchmarks. It is built
// without privileges by the test process itself and knows nothing of the
// program under test.
//
//	 host netns (the tests, and what they start)        internet netns
//	┌────────────────────────────────────────┐   ┌──────────────────────────────┐
//	│ wan0 10.77.0.2, 2606:2800:ffff::2      ├───┤ world0: every other address  │
//	│ default routes, resolv.conf, hosts     │   │ resolver, HTTP, TLS, echo,   │
//	│ lo 127.0.0.1, ::1                      │   │ capture of all that arrives  │
//	└────────────────────────────────────────┘   └──────────────────────────────┘
//
// TestMain calls Main, which starts the test binary anew in user, network,
// mount and pid namespaces of its own. There the tests run as an ordinary
// user: what they start has no capability, its uid is not 0, and its machine
// is the host netns above. /tmp and /home are empty, /etc/resolv.conf,
// /etc/hosts and /etc/passwd are the world's, and /proc shows only what the
// tests have started.
//
// Every address exists on the internet side, so a packet that gets out always
// arrives, and the capture sees it. Addresses, ports, the order of answers
// and TTLs are random where a client must not rely on them.
//
// WORLD_AS chooses who the tests are: "user" (the default: the caller, or
// uid 1777 where the caller is root), "nobody" (uid 65534) or "root" (real
// root, no user namespace). The last two need real root outside and fail
// without it.
package world
