# The few commands of this project; each installs what it needs or says what is missing.
.PHONY: demo test lint compare storm bench fuzz

# An image of examples/hello, answered by Lambda's emulator and pushed to a registry.
demo:
	@examples/demo.sh

# Every test, against real registries, package index and emulator.
test:
	@python3 tests/tools.py
	cargo test

lint:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

# Our trees and layers of some seventy wheels of PyPI beside what pip, tar and Python make of them.
compare:
	cargo test --test compare -- --nocapture

# Hundreds of pushes of a large image through a bad network; fewer: make storm PUSHES=20 KILLS=2
PUSHES ?= 200
KILLS ?= 20
storm:
	@python3 tests/tools.py
	cargo build --release
	LAMBIMG=$(abspath $(or $(CARGO_TARGET_DIR),target))/release/lambimg STORM_PUSHES=$(PUSHES) STORM_KILLS=$(KILLS) \
		cargo test --test push_storm -- --nocapture --test-threads=1 --exact storm killed

# lambimg against its peers, written to BENCHMARKS.md; some parts of it: make bench ONLY=a,c RUNS=5
RUNS ?= 3
bench:
	@python3 benches/run.py --only "$(ONLY)" --runs $(RUNS)

# Every fuzz target for so many seconds: make fuzz SECONDS=3600
SECONDS ?= 60
fuzz:
	@command -v cargo-fuzz >/dev/null || { echo "cargo-fuzz is missing: cargo install cargo-fuzz"; exit 2; }
	cd fuzz && for target in $$(cargo +nightly fuzz list); do \
		python3 seeds.py $$target && \
		cargo +nightly fuzz run $$target -- -max_total_time=$(SECONDS) -rss_limit_mb=4096 || exit 1; \
	done
