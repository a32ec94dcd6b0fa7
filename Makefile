# The project's commands. `make run` serves the starter model; `make test` is every test that needs no GPU.
PYTHON ?= python3
PORT ?= 3000
VENV := .venv/bin/python
LEGACY := .venv-legacy/bin/python

.PHONY: run build test test-rust test-integration lint bench-cpu bench-router cuda-toolkit cuda-kernels clean

run: build
	target/release/text-generation-launcher --port $(PORT)

build:
	cargo build --release --workspace --bins

test: lint test-rust test-integration

test-rust:
	cargo test --release --workspace

test-integration: build $(VENV) $(LEGACY)
	$(VENV) -m pytest integration-tests -q

lint:
	cargo fmt --check
	cargo clippy --release --workspace --all-targets -- -D warnings

bench-cpu: build $(VENV)
	cargo build --release -p text-generation-backend --example bench_cpu
	$(VENV) integration-tests/bench/bench_cpu.py

bench-router: build $(VENV)
	cargo build --release -p text-generation-router --examples
	$(VENV) integration-tests/bench/bench_router.py

cuda-toolkit:
	csrc/toolkit.sh

cuda-kernels: cuda-toolkit
	csrc/build.sh

$(VENV): integration-tests/requirements.txt
	$(PYTHON) -m venv .venv
	$(VENV) -m pip install -q --disable-pip-version-check -r $<
	@touch $@

$(LEGACY): integration-tests/requirements-legacy.txt
	$(PYTHON) -m venv .venv-legacy
	$(LEGACY) -m pip install -q --disable-pip-version-check -r $<
	@touch $@

clean:
	cargo clean
	rm -rf .venv .venv-legacy
