# The few commands of this project; each installs what it needs or says what is missing.
.PHONY: demo test lint

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
