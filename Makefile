# What a person or CI runs. `make demo` needs Rust and nothing else of ours; `make test` needs what `make test-deps` installs.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:

CARGO ?= cargo
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
PYTHON := target/python
SCENARIOS := flash-crowd staggered video-on-demand streaming churn symmetric-nat adsl liars edge-loss release-day day
NEXTEST_VERSION := 0.9
# For each target of `make fuzz`.
FUZZ_SECONDS ?= 60

# What the demo runs with, and what its build needs: aws-lc is C.
DEMO_PACKAGES := postgresql build-essential pkg-config curl ca-certificates
TEST_PACKAGES := rclone s3cmd python3-venv nodejs php-cli
CONFORMANCE_PACKAGES := nodejs npm nginx varnish python3

BENCH_PACKAGES := nginx wrk nghttp2-client openssl curl python3

.PHONY: help sim demo bench-edge conformance deps fuzz kill9 test check fmt clippy doc purity nextest test-deps

help:
	@echo "make demo    a whole network on this machine, with real content going through it"
	echo "make test    everything that CI runs"
	echo "make check   formatting, lints, documentation, dependencies between crates"
	echo "make conformance  npm's http-cache-tests through an edge and an origin, beside nginx and varnish"
	echo "make bench-edge   the edge beside nginx: rates, latency, CPU and memory, as ratios (ARGS='memory --rounds 5')"
	echo "make fuzz    every parser that a network reaches, on whatever a fuzzer thinks of, FUZZ_SECONDS each (60)"
	echo "make kill9   a transfer during which 20 processes are killed: no byte wrong, none counted twice or not at all"

demo: deps
	$(CARGO) build --release -p umbel
	exec target/release/umbel demo $(ARGS)

# Every scenario with a thousand peers, or the one that is asked for.
sim: deps
	$(CARGO) build --release -p umbel
	if [ -n "$(ARGS)" ]; then exec target/release/umbel sim $(ARGS); fi
	for scenario in $(SCENARIOS); do
	    target/release/umbel sim --scenario "$$scenario" --peers 1000 --seed 7
	    echo
	done

kill9: deps
	$(CARGO) build --release -p umbel
	exec bench/kill9 $(ARGS)

bench-edge: deps
	@tests/install.sh $(BENCH_PACKAGES)
	$(CARGO) build --profile dist -p umbel
	exec bench/edge --program target/dist/umbel $(ARGS)

# On the stable toolchain: what libfuzzer needs of the compiler has no other name there. There is no `unsafe` of ours for a
# sanitizer to watch.
fuzz: deps
	@$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-fuzz
	for target in crates/*/fuzz/fuzz_targets/*.rs; do
	    folder=$${target%/fuzz_targets/*}
	    name=$$(basename "$$target" .rs)
	    echo "$$folder $$name"
	    mkdir -p "$$folder/corpus/$$name" "$$folder/seeds/$$name"
	    RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --fuzz-dir "$$folder" --sanitizer none --target-dir target/fuzz "$$name" \
	        "$$folder/corpus/$$name" "$$folder/seeds/$$name" -- -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1
	done

conformance: deps
	@tests/install.sh $(CONFORMANCE_PACKAGES)
	$(CARGO) build --release -p umbel
	tests/conformance/run target/release/umbel

deps:
	@tests/install.sh $(DEMO_PACKAGES)

test-deps: deps
	@tests/install.sh $(TEST_PACKAGES)
	tests/python.sh $(PYTHON)
	# A minimal toolchain comes without them.
	$(CARGO) fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	$(CARGO) clippy --version >/dev/null 2>&1 || rustup component add clippy
	$(CARGO) nextest --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-nextest@^$(NEXTEST_VERSION)

check: fmt clippy doc purity

fmt:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy --workspace --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items

purity:
	@CARGO="$(CARGO)" tests/purity.sh

# The last line is nextest's own. Documentation examples come first, since they are not nextest's.
test: test-deps check
	$(CARGO) test --workspace --doc --quiet
	$(MAKE) --no-print-directory nextest

nextest:
	PATH="$(CURDIR)/$(PYTHON)/bin:$$PATH" $(CARGO) nextest run --workspace
