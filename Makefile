# make quickstart   train the quick-start session; again: resume it, or say it is finished
# make test         unit tests, ranks, one session that is killed and resumed: some eleven minutes on two cores
# make test-all     what CI runs besides: every kind of interruption, lm-eval, a few jobs on a real SLURM
# make check        format, lint, types, layers, architecture: the same as in CI
# make test-slurm   all tests on a real SLURM, which it brings up on this machine (root, Debian or Ubuntu)
# make nightly      the long tests, and every test file three times on a machine that is busy
# make clean        remove .venv and caches; runs/ stays
#
# ARGS         more arguments for quickstart, as ARGS='--session runs/second'
# PYTHON       the Python (3.10 or newer) that .venv is made from
# TORCH_INDEX  a package index to take torch from. Many machines' default index serves the
#              CUDA build, several GB, also where there is no GPU; PyTorch's installation page
#              names the index of the small CPU build

PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=
VENV := .venv
STAMP := $(VENV)/.installed
LM_EVAL := $(VENV)/.lm-eval-installed
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help venv quickstart test test-all test-slurm check format nightly clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

venv: $(STAMP)

# On a machine with a GPU whose Python already has torch, that torch is kept: it fits the
# driver, which no index knows.
$(STAMP): pyproject.toml constraints/cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "Phaseline needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) -V). Call make PYTHON=..." >&2; exit 2; }
	@mkdir -p $(VENV)
	@if nvidia-smi -L >/dev/null 2>&1 && $(PYTHON) -c 'import torch' 2>/dev/null; then \
	  echo "A GPU and a torch are here: keeping that torch."; \
	  $(PYTHON) -m venv --system-site-packages $(VENV); \
	  grep -v '^torch==' constraints/cpu.txt > $(VENV)/constraints.txt; \
	else \
	  $(PYTHON) -m venv $(VENV); \
	  cp constraints/cpu.txt $(VENV)/constraints.txt; \
	  $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	    $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c $(VENV)/constraints.txt torch; \
	fi
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -e '.[dev]'
	@touch $@

# Its two ranks are a CPU's; where there is one GPU, one rank.
quickstart: $(STAMP)
	@gpus=$$($(VENV)/bin/python -c 'from phaseline.cluster.accelerators import count_gpus; print(count_gpus())'); \
	$(VENV)/bin/phaseline launch configs/quickstart.yaml $$([ "$$gpus" != 1 ] || echo --processes 1) $(ARGS)

# Tests that start ranks want both cores for themselves; the others share them.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n 2 --dist worksteal -m 'not (distributed or extended or slurm or nightly)' \
	  --ignore tests/architecture tests
	$(VENV)/bin/pytest -m 'distributed and not (extended or slurm or nightly)' tests

$(LM_EVAL): $(STAMP)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -e '.[dev,lm-eval]'
	@touch $@

# On a machine where SLURM cannot be brought up its tests say so and are passed over.
test-all: $(LM_EVAL)
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n 2 --dist worksteal -m 'extended and not (distributed or slurm or nightly)' tests
	$(VENV)/bin/pytest -m 'extended and distributed and not (slurm or nightly)' tests
	$(VENV)/bin/pytest -m in_ci tests/slurm

# One at a time: there is one cluster, and some tests take nodes away from it.
test-slurm: $(STAMP)
	$(VENV)/bin/pytest -m 'slurm and not nightly' tests/slurm

check: $(STAMP)
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/pytest -q tests/architecture

format: $(STAMP)
	$(VENV)/bin/ruff format
	$(VENV)/bin/ruff check --fix

nightly: $(STAMP)
	$(VENV)/bin/pytest -m 'nightly and not slurm' --timeout 3600 tests
	$(VENV)/bin/python tests/repeat_under_load.py --times 3

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
