# `make demo` and `make test` do everything on a fresh machine.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PACKAGES := edgedistill/pipeline edgedistill/exporters edgedistill/targets
READY := $(VENV)/.ready
# Threads that spin for long while they wait ruin a busy machine; see pipeline/threads.py.
export GOMP_SPINCOUNT ?= 1000

.PHONY: demo test slow bench table-export lint types imports setup clean

demo: $(READY)  ## teacher -> student -> 9 artefacts -> proof, on real digits
	$(BIN)/edgedistill run examples/digits/edge.yaml

test: $(READY)  ## the whole suite but what is marked slow
	$(BIN)/python -m pytest -q

slow: $(READY)  ## everything, as a nightly run does
	$(BIN)/python -m pytest -q -m "slow or not slow"

bench: $(READY)  ## ratios for docs/benchmarks.md, each measured interleaved in one run
	$(BIN)/python tests/benchmarks/bench_training.py
	$(BIN)/python tests/benchmarks/bench_memory.py
	$(BIN)/python tests/benchmarks/bench_threads.py
	$(BIN)/python tests/benchmarks/bench_int8.py
	$(BIN)/python tests/benchmarks/bench_latency.py
	$(BIN)/python tests/benchmarks/bench_command.py

table-export: $(READY)  ## every built-in model in every format and precision -> docs/exports.md
	$(BIN)/python tests/benchmarks/table_export.py --out docs/exports.md

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy wants a package to lie in a folder of its own name; the root is the package.
types: $(READY)
	@link=$$(mktemp -d) && ln -s "$(CURDIR)" $$link/edgedistill && cd $$link && \
	  "$(abspath $(BIN))/mypy" --config-file edgedistill/pyproject.toml \
	    --cache-dir "$(CURDIR)/.mypy_cache" edgedistill/__init__.py $(PACKAGES)

imports: $(READY)
	$(BIN)/lint-imports

setup: $(READY)

# torch first and alone: a CPU wheel that pip is told of (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL) wins.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e ".[all,dev]"
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
