# Every target makes what it needs, from a clean clone, with a plain `python3 -m venv` and pip.

PYTHON ?= python3
PYTHON312 ?= python3.12
ARGS ?=

VENV := .venv
VENV312 := .venv312
VENV_INTEROP := .venv-interop
BIN := $(VENV)/bin/python
BIN312 := $(VENV312)/bin/python
CODE := $(wildcard lorax experiments configs tests)

# Tests run in two processes, neighbours in one, where they share what is compiled. They mostly trace
# and compile, so XLA is told not to optimise (see tests/conftest.py too; measured: half the time;
# test-interop runs what users run), and numpy's BLAS is held to one thread.
PYTEST := -m pytest -n 2 --dist worksteal
CPU := JAX_PLATFORMS=cpu OMP_NUM_THREADS=1
TEST_ENV := $(CPU) XLA_FLAGS=--xla_backend_optimization_level=0
LAWS := tests/core tests/ops tests/adapters tests/test_laws.py tests/test_laws_input.py
INTEROP := tests/interop

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help quickstart test test-runs test-exhaustive test-312 test-interop lint format bench notebooks clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

quickstart: $(VENV)/.installed-experiments  ## pre-train a small model, adapt it, compare ranks (ARGS=... adds flags)
	$(BIN) -m experiments.quickstart --workdir=runs/quickstart $(ARGS)

test: lint  ## lint, type-check and test (ARGS=... adds pytest flags)
	$(TEST_ENV) $(BIN) $(PYTEST) -m "not runs and not exhaustive" $(ARGS)

test-runs: $(VENV)/.installed-dev  ## what takes long: whole runs, sweeps and studies, kills, notebooks, the laws in 16 bits
	$(TEST_ENV) $(BIN) $(PYTEST) -m "runs and not exhaustive" --ignore=$(INTEROP) $(ARGS)

test-exhaustive: $(VENV)/.installed-dev  ## all combinations, where the targets above have some: every method on every kind of leaf
	$(TEST_ENV) $(BIN) $(PYTEST) -m exhaustive $(ARGS)

test-312: $(VENV312)/.installed-dev  ## the core and law tests under PYTHON312=... (Python 3.12 or later)
	$(TEST_ENV) $(BIN312) $(PYTEST) -m "not runs and not exhaustive" $(LAWS) $(ARGS)

test-interop: $(VENV_INTEROP)/.installed-interop  ## both ways against torch, transformers and peft themselves
	$(CPU) HF_HUB_OFFLINE=1 $(VENV_INTEROP)/bin/python $(PYTEST) $(INTEROP) $(ARGS)

lint: $(VENV)/.installed-dev  ## ruff and mypy
	$(BIN) -m ruff check
	$(BIN) -m ruff format --check
	$(BIN) -m mypy

format: $(VENV)/.installed-dev  ## rewrite the code as ruff wants it
	$(BIN) -m ruff check --fix
	$(BIN) -m ruff format

notebooks: $(VENV)/.installed-dev  ## execute the notebooks and rewrite them with their outputs
	$(BIN) -m notebooks.execute

bench: $(VENV)/.installed-experiments  ## the cost of a training step, as JSON (ARGS=... adds flags)
	@$(BIN) -m experiments.benchmarks.step $(ARGS)

clean:  ## remove the virtual environments, caches and build output, but not runs/
	rm -rf $(VENV) $(VENV312) $(VENV_INTEROP) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# One recipe makes every stamp: $(1) the variable naming the interpreter, $(2) the oldest version it
# may have, $(3) the environment, $(4) the extra. An environment in which pip does not run (a broken or
# interrupted one) is made afresh. Both extras share .venv: installing one takes nothing from the other.
define install
	@$($(1)) -c 'import sys; sys.exit(sys.version_info < tuple(map(int, "$(2)".split("."))))' || \
	  { echo "$(1)=$($(1)) does not run, or is older than Python $(2): make $(1)=... names another" >&2; exit 1; }
	@$(3)/bin/python -m pip --version >/dev/null 2>&1 || { echo "making $(3)"; $($(1)) -m venv --clear $(3); }
	@echo "installing .[$(4)] into $(3) (up to a minute the first time)"
	@$(3)/bin/python -m pip install -qq --disable-pip-version-check -e '.[$(4)]'
	@touch $@
endef

$(VENV)/.installed-dev: pyproject.toml
	$(call install,PYTHON,3.11,$(VENV),dev)
	@touch $(VENV)/.installed-experiments

$(VENV)/.installed-experiments: pyproject.toml
	$(call install,PYTHON,3.11,$(VENV),experiments)

$(VENV312)/.installed-dev: pyproject.toml
	$(call install,PYTHON312,3.12,$(VENV312),dev)

# torch in an environment of its own, so that nothing else can come to need it. Where pip has a choice,
# torch's CPU build is a tenth of the size: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
$(VENV_INTEROP)/.installed-interop: pyproject.toml
	$(call install,PYTHON,3.11,$(VENV_INTEROP),interop)
