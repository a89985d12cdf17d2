# Everything a developer does here. `make help` lists the targets.
#
# Tests run without cgo, as the released programs do; race needs it.

GO          ?= go
FUZZTIME    ?= 20s
BENCHTIME   ?= 1s
STATICCHECK ?= $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
BUILD       := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -buildid='
UNIT        := ./cmd/... ./netstack/... ./policy/... ./sandbox/... ./shim/...

# program:Debian package, for all that the tests start
NEEDS := curl:curl nft:nftables dig:bind9-dnsutils drill:ldnsutils unbound:unbound tmux:tmux vim:vim less:less git:git ssh:openssh-client sshd:openssh-server /usr/bin/python3:python3 stty:coreutils gcc:gcc node:nodejs bash:bash unshare:util-linux newuidmap:uidmap

# and what only make clients starts
TOOLS := wget:wget npm:npm /usr/bin/pip3:python3-pip /usr/bin/cargo:cargo java:openjdk-17-jdk-headless /usr/lib/postgresql/*/bin/initdb:postgresql redis-server:redis-server \
	redis-cli:redis-tools chromium:chromium firefox-esr:firefox-esr certutil:libnss3-tools mvn:maven openssl:openssl ssh-keyscan:openssh-client /usr/lib/python3/dist-packages/aiohttp:python3-aiohttp /usr/lib/python3/dist-packages/requests:python3-requests

.PHONY: help build test unit integration ways users platform clients race lint bench microbench property fuzz repro deps clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## the two static programs, here
	$(BUILD) -o outcall ./cmd/outcall
	$(BUILD) -o outcall-agent ./cmd/outcall-agent

test: deps unit platform integration users ## all tests; as root the integration tests drop to an ordinary user

unit: ## tests of the packages
	CGO_ENABLED=0 $(GO) test $(UNIT)

platform: ## the kernel facts that we rely on
	CGO_ENABLED=0 $(GO) test -count=1 ./integration/platform ./integration/world

integration: ## the built program in a small internet, and the tree's habits
	CGO_ENABLED=0 $(GO) test -p 1 -count=1 -timeout 30m ./integration ./integration/habits ./integration/harness ./integration/probe

# What shows most of the program in the least time.
WAYS := ^Test(Allowed|Denied|Root|Doctor)

ways: ## the main ways of the integration tests
	CGO_ENABLED=0 $(GO) test -count=1 -run '$(WAYS)' ./integration

users: ## the main ways again as uid 65534 and as real root; only where the caller is root
	@if [ "$$(id -u)" = 0 ]; then set -e; for as in nobody root; do \
		echo "WORLD_AS=$$as"; \
		WORLD_AS=$$as CGO_ENABLED=0 $(GO) test -count=1 -run '$(WAYS)' ./integration; \
	done; else echo "not root: the tests as uid 65534 and as real root were NOT run"; fi

clients: NEEDS += $(TOOLS)
clients: deps ## real programs against real servers, package clients through this machine's own registries, coding agents with their hooks
	CGO_ENABLED=0 $(GO) test -p 1 -count=1 -tags clients -timeout 30m ./integration/tools ./integration/clients

# Under the race detector a start in real namespaces is many times slower than
# the deadlines that those tests hold, so of two packages only the other tests
# run. policy's random rule sets take minutes there and are asked by one
# goroutine each: a fiftieth of them.
SLOW := outcall/sandbox/gate outcall/sandbox/view outcall/policy

race: ## unit tests under the race detector (needs gcc); of gate and view those without namespaces, of policy few random cases
	CGO_ENABLED=1 $(GO) test -race $$($(GO) list $(UNIT) | grep -vxF $(patsubst %,-e %,$(SLOW)))
	CGO_ENABLED=1 $(GO) test -race -short $(SLOW)

lint: ## gofmt, vet, staticcheck
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "gofmt: $$out"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags clients ./integration/clients ./integration/tools
	$(STATICCHECK) ./...

bench: ## the whole program against bwrap, slirp4netns and no sandbox, as ratios of one run
	@$(MAKE) --no-print-directory deps NEEDS="bash:bash curl:curl unshare:util-linux bwrap:bubblewrap slirp4netns:slirp4netns"
	CGO_ENABLED=0 $(GO) test -count=1 -timeout 30m -run '^$$' -bench . -benchtime 1x ./integration/bench

microbench: ## the benchmarks of the packages
	CGO_ENABLED=0 $(GO) test -run '^$$' -bench . -benchtime $(BENCHTIME) $(UNIT)

property: ## the property tests of policy and of explain against the handlers at their full size, with nothing else running
	FULL=1 CGO_ENABLED=0 $(GO) test -count=1 -v -timeout 60m -run 'TestProperty|TestC9' ./policy ./netstack

fuzz: ## every fuzz target for FUZZTIME; each package is built once
	@set -e; bin=$$(mktemp -d); trap 'rm -rf "$$bin"' EXIT; for pkg in $$($(GO) list $(UNIT)); do \
		dir=$$($(GO) list -f '{{.Dir}}' $$pkg); targets=$$(cat $$dir/*_test.go 2>/dev/null | sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p'); \
		test -n "$$targets" || continue; \
		CGO_ENABLED=0 $(GO) test -c -fuzz=Fuzz -o "$$bin/test" $$pkg; \
		for f in $$targets; do \
			echo "$$pkg $$f"; (cd $$dir && "$$bin/test" -test.run '^$$' -test.fuzz "^$$f$$" -test.fuzztime $(FUZZTIME) -test.fuzzminimizetime 10x \
				-test.fuzzcachedir "$$($(GO) env GOCACHE)/fuzz/$$pkg"); \
		done; done

repro: ## two builds, the second with an empty cache, are the same bytes
	CGO_ENABLED=0 $(GO) test -count=1 -run TwoBuilds ./integration/habits

deps: # what the tests start: installed where we are root, named where not
	@missing=; PATH="$$PATH:/usr/sbin:/sbin"; for n in $(NEEDS); do { command -v $${n%%:*} || ls -d $${n%%:*}; } >/dev/null 2>&1 || missing="$$missing $${n##*:}"; done; \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing; \
		else echo "the tests need these packages:$$missing (Debian: apt-get install$$missing)"; exit 1; fi; fi

clean: ## what build made
	rm -f outcall outcall-agent
