# The project's commands. `make run` serves the starter model; `make test` is every test that needs no GPU.
PYTHON ?= python3
PORT ?= 3000
VENV := .venv/bin/python
LEGACY := .venv-legacy/bin/python
LITELLM := .venv-litellm/bin/python

# The CUDA kernels are built where nvcc and libclang are found; `make cuda-toolkit` installs both into .cuda/.
# `make CARGO_FEATURES= build` leaves them out.
ifeq ($(origin CARGO_FEATURES),undefined)
  NVCC_FOUND := $(shell csrc/build.sh --toolkit 2>/dev/null)
  LIBCLANG_FOUND := $(or $(LIBCLANG_PATH),$(wildcard .cuda/libclang),$(shell ldconfig -p 2>/dev/null | grep -om1 libclang))
  CARGO_FEATURES := $(if $(and $(NVCC_FOUND),$(LIBCLANG_FOUND)),--features text-generation-backend/cuda)
  ifneq ($(and $(NVCC_FOUND),$(if $(LIBCLANG_FOUND),,missing)),)
    $(info nvcc is there, libclang is not: building without CUDA kernels. `make cuda-toolkit` installs it.)
  endif
endif

PROMETHEUS := .prometheus/usr/bin/prometheus
APT := apt-get -q -o Acquire::Retries=5

.PHONY: run build test test-rust test-integration test-clients test-openapi fuzz lint bench-cpu bench-router bench-overload bench-scheduler soak clean \
        cuda-toolkit cuda-kernels gpu-bundle gpu-models test-gpu

run: build
	target/release/text-generation-launcher --port $(PORT)

build:
	cargo build --release --workspace --bins $(CARGO_FEATURES)

test: lint test-rust test-integration

test-rust:
	cargo test --release --workspace $(CARGO_FEATURES)

test-integration: build $(VENV) $(LEGACY) $(PROMETHEUS)
	cargo build --release --workspace --bins --examples $(CARGO_FEATURES)
	$(VENV) -m pytest integration-tests -q --ignore integration-tests/clients

# Every client package that people use, newest and as of TGI's days, in as many environments as they need.
test-clients: build $(VENV) $(LEGACY) $(LITELLM)
	$(VENV) -m pytest integration-tests/clients -q

# The longer run of what `make test` does in short.
test-openapi: build $(VENV)
	QUERN_SCHEMATHESIS_EXAMPLES=200 $(VENV) -m pytest integration-tests/test_openapi.py -q

# Random input against everything that reads a client's bytes or a model's files: 3 million executions a target, a
# hundredth of it of grammars, which are compiled.
fuzz:
	QUERN_FUZZ=3000000 cargo test --release -p text-generation-router -p text-generation-backend --lib fuzz

lint:
	cargo fmt --check
	cargo clippy --release --workspace --all-targets $(CARGO_FEATURES) -- -D warnings

bench-cpu: build $(VENV)
	cargo build --release -p text-generation-backend --example bench_cpu
	$(VENV) integration-tests/bench/bench_cpu.py

bench-router: build $(VENV)
	cargo build --release -p text-generation-router --examples
	$(VENV) integration-tests/bench/bench_router.py

# A flood from one key, ten times the load; quiet machine, please.
bench-overload: build $(VENV)
	$(VENV) integration-tests/bench/bench_overload.py

# A step's planning, in microseconds.
bench-scheduler:
	cargo bench -p text-generation-router

# An hour of random load with faults: is memory flat?
soak: build $(VENV)
	$(VENV) integration-tests/bench/soak.py

cuda-toolkit:
	csrc/toolkit.sh

cuda-kernels: cuda-toolkit
	csrc/build.sh

# What a GPU machine without Rust needs, in one folder; QUERN_CUDA_ARCHS=90a makes it smaller.
gpu-bundle: cuda-kernels
	cargo build --release --workspace --bins --examples --features text-generation-backend/cuda
	integration-tests/gpu/bundle.sh target/gpu-bundle

# Real checkpoints for it, in parts of at most 50 MB.
gpu-models: $(VENV)
	$(VENV) integration-tests/models.py
	integration-tests/gpu/models.sh pack target/test-models/smollm2-135m-awq-g64 target/gpu-models
	integration-tests/gpu/models.sh pack target/test-models/smollm2-135m-v1-awq-g64 target/gpu-models

# On a machine with a GPU and Rust.
test-gpu: gpu-bundle $(VENV)
	$(VENV) integration-tests/models.py
	MODELS=$(CURDIR)/target/test-models OUT=$(CURDIR)/target/gpu-results target/gpu-bundle/run.sh test compare

$(VENV): integration-tests/requirements.txt
	$(PYTHON) -m venv .venv
	$(VENV) -m pip install -q --disable-pip-version-check -r $<
	@touch $@

$(LEGACY): integration-tests/requirements-legacy.txt
	$(PYTHON) -m venv .venv-legacy
	$(LEGACY) -m pip install -q --disable-pip-version-check -r $<
	@touch $@

$(LITELLM): integration-tests/requirements-litellm.txt
	$(PYTHON) -m venv .venv-litellm
	$(LITELLM) -m pip install -q --disable-pip-version-check -r $<
	@touch $@

# Debian's package, unpacked here and not installed.
$(PROMETHEUS):
	mkdir -p .prometheus
	cd .prometheus && ($(APT) download prometheus || ($(APT) update && $(APT) download prometheus))
	dpkg -x .prometheus/prometheus_*.deb .prometheus
	@touch $@

clean:
	cargo clean
	rm -rf .venv .venv-legacy .venv-litellm .prometheus
