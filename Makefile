# kdse: `make demo` and `make test` do everything on a fresh machine.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# exact versions to install; empty for the newest that pyproject.toml allows
LOCK   ?= constraints.txt
# chosen by hand: torch and torchaudio are a pair, and the newest of each need not be one
PAIR   ?= torch==2.14.1 torchaudio==2.11.1 torchvision==0.29.1

.PHONY: help demo figures page test test-fast test-slow test-slurm test-latest test-oldest check lint types bench bench-gpu env lock \
  try-configs clean

help:            ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 14

# The stamp is written last, so an interrupted install starts again.
$(VENV)/.installed: pyproject.toml $(LOCK)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip $(if $(LOCK),--constraint $(LOCK))
	$(BIN)/python -m pip install --quiet --editable '.[dev]' \
	  $(if $(LOCK),--constraint $(LOCK) --build-constraint $(LOCK))
	@touch $@

env: $(VENV)/.installed   ## create the virtual environment and install kdse with its tools (about 3 minutes, 5 GB)

build/uv/bin/uv:
	$(PYTHON) -m venv build/uv
	build/uv/bin/python -m pip install --quiet uv

COMPILE = build/uv/bin/uv pip compile --quiet --strip-extras --no-annotate --no-header --no-emit-index-url \
  --no-emit-find-links --python-version 3.11 --extra dev

# one file for every Python and system that pyproject.toml names, with pip and the tools that build pesq
lock: build/uv/bin/uv   ## renew constraints.txt, the exact versions that every install takes (half a minute)
	printf '%s\n' $(PAIR) > build/pair.txt
	printf '%s\n' cython pip setuptools wheel | $(COMPILE) --universal --upgrade --extra live --extra executorch \
	  --constraint build/pair.txt --output-file constraints.txt pyproject.toml -

demo: env        ## train, distil, evaluate and compare on the embedded corpus (under 15 minutes on two cores)
	$(BIN)/python experiments/demo.py $(DEMO_FLAGS)

figures: env     ## the pictures of README.md, from what `make demo` left (needs Chromium)
	$(BIN)/python experiments/figures.py runs/demo/report experiments/figures/demo --figures improvement_by_snr similarity_two_step --listening

# the version that kdse.web.runtime names; nothing of it is committed
build/node_modules/onnxruntime-web/package.json: kdse/web/runtime.py
	npm install --prefix build --no-save --no-audit --no-fund --ignore-scripts --loglevel error \
	  onnxruntime-web@$$(sed -n 's/^VERSION = "\(.*\)"/\1/p' kdse/web/runtime.py)
	@touch $@

page: env build/node_modules/onnxruntime-web/package.json   ## a static page that runs the student in a browser (needs npm once)
	$(BIN)/kdse web --out build/page --overwrite $(PAGE_FLAGS)

# one thread a process: two that take both cores each wait for each other
test: env        ## the tests (about 13 minutes on two cores)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -q -n 2 --dist loadfile --durations=25 -m "not slow"

# a fast test that hangs, or should carry the mark `integration`, fails after a minute
test-fast: env   ## the tests of single parts, of every package (about two minutes on two cores)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -q -n 2 --dist loadfile --durations=10 --timeout=60 \
	  -m "not integration and not slow and not slurm"

test-slow: env   ## the tests marked slow
	$(BIN)/python -m pytest -q -m slow

test-slurm: env  ## the tests on a real SLURM, which it installs (apt-get, as root) and starts (4 minutes on two cores)
	tests/cluster/slurm/with_slurm.sh $(BIN)/python -m pytest -q -p no:xdist -m slurm tests/cluster

test-latest:     ## the fast tests with the newest versions that pyproject.toml allows, in build/latest (10 minutes)
	rm -rf build/latest
	$(MAKE) test-fast VENV=build/latest LOCK=

test-oldest: build/uv/bin/uv   ## the fast tests with the lowest versions that it allows, in build/oldest (10 minutes)
	rm -rf build/oldest
	mkdir -p build/oldest
	$(COMPILE) --resolution lowest-direct --output-file build/oldest/constraints.txt pyproject.toml
	$(MAKE) test-fast VENV=build/oldest/venv LOCK=build/oldest/constraints.txt

lint: env        ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env       ## mypy
	$(BIN)/mypy

check: lint types test   ## everything CI runs

bench: env       ## speed as ratios within one run, and the bars (about ten minutes on two cores that do nothing else)
	@for file in $(filter-out benchmarks/gpu.py,$(wildcard benchmarks/*.py)); do \
	  echo "== $$file"; $(BIN)/python $$file || exit 1; done
	$(BIN)/kdse benchmark cruse-62k

bench-gpu: env   ## steps, data, Grams, a resume and a whole run on a GPU (at most 8 minutes)
	$(BIN)/python benchmarks/gpu.py

try-configs: env ## train every shipped config for two minutes on KDSE_CORPUS (about two hours on two cores)
	$(BIN)/python experiments/try_configs.py $(TRY_FLAGS)

clean:           ## remove runs and caches, keep the environment
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache
