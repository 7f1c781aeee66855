# What there is to run. The longer recipes are programs in scripts/.

.PHONY: help setup test stress faults soak matrix demo bench lint

# Most tests wait, for servers, limits and each other, so more of them run at
# once than there are cores. "make lint" vets.
TEST = go test -race -shuffle=on -vet=off -p=4 -parallel=16

# Nothing that is built depends on where the tree is, so all clones share what was
# compiled in one of them.
export GOFLAGS := $(GOFLAGS) -trimpath

# With the race detector a program waits for a second at its end, for races that
# are just then found, and the tests of each package are a program.
export GORACE ?= atexit_sleep_ms=50

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install PostgreSQL, PgBouncer and a C compiler where missing
	@scripts/setup

test: setup ## run all tests of all modules, against real servers
	@scripts/each-module $(TEST) -short -timeout=20m ./...

stress: setup ## run the same tests, those under stress for longer, fuzz tests, and a minute of faults
	@scripts/each-module $(TEST) -timeout=60m ./...
	@scripts/fuzz
	@$(MAKE) --no-print-directory faults FOR=1m

# How long to do harm, and the seed of a run that is to be repeated.
FOR ?= 5m
SEED ?= 0

faults: setup ## do harm to servers, networks and processes, and check every promise (five minutes)
	@go run -C integration_test/faults . -for $(FOR) -seed $(SEED)

soak: setup ## use the library for long, with faults, and see that nothing grows (five minutes; FOR=30m)
	@go run -C integration_test/faults ./soak -for $(FOR) -svg soak.svg

matrix: setup ## run the integration tests on PostgreSQL 14 to 18, PgBouncer 1.18 and 1.24
	@scripts/matrix

demo: setup ## run the example web application
	@go run -C examples/webapp .

# What the benchmark program is told; "make bench BENCH=-short" writes nothing.
BENCH ?= -docs ../../docs/benchmarks.md

bench: setup ## measure against other ways to take turns, and write docs/benchmarks.md (twelve minutes)
	@go run -C integration_test/peers . $(BENCH)

lint: ## gofmt, go vet, staticcheck, go fix, go mod tidy: report, change nothing
	@scripts/lint
